//! gRPC on the Unix socket: reads the published View and the journal's reader, sends Requests, nothing else.
