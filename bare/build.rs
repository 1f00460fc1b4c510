//! Links a static image at 1 MiB, without any start-up code but the image's own.

use std::{env, path::Path};

const ARGUMENTS: [&str; 7] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    // Nothing is padded to pages: the multiboot header has to be near the beginning of the file.
    "-Wl,-n",
    "-Wl,--gc-sections",
];

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the manifest is");
    let script = Path::new(&folder).join("link.ld");
    for argument in ARGUMENTS {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    println!("cargo::rerun-if-changed=link.ld");
}
