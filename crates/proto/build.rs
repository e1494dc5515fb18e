//! Compiles `proto/` without `protoc`, and keeps the descriptor set for reflection.

use prost::Message as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let package = root.join("beamwright/v1");
    println!("cargo:rerun-if-changed={}", package.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&package)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "proto"));
    files.sort();
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let set = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("beamwright.v1.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}
