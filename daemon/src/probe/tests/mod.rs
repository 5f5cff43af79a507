mod answers;
mod real;
mod server;
