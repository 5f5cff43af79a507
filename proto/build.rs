//! Compiles the protos without protoc and keeps the descriptor set for reflection.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 9] = [
    "metis/v1/common.proto",
    "metis/v1/status.proto",
    "metis/v1/ups.proto",
    "metis/v1/power.proto",
    "metis/v1/card.proto",
    "metis/v1/runs.proto",
    "metis/v1/leases.proto",
    "metis/v1/prepare.proto",
    "metis/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=metis");
    let set = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("metis.v1.binpb"), set.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
