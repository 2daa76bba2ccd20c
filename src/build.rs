//! Link arguments and cfgs for the Python module, and the facts that `build_info()` shows.

use std::process::Command;

fn main() {
    #[cfg(feature = "python")]
    {
        pyo3_build_config::use_pyo3_cfgs();
        pyo3_build_config::add_extension_module_link_args();
    }
    println!("cargo:rerun-if-changed=src/build.rs");
    for (name, variable) in [("TARGET", "TARGET"), ("PROFILE", "PROFILE"), ("OPT_LEVEL", "OPT_LEVEL")] {
        println!("cargo:rustc-env=RAREPIXEL_{name}={}", std::env::var(variable).unwrap_or_default());
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("--version").output().map(|out| out.stdout).unwrap_or_default();
    println!("cargo:rustc-env=RAREPIXEL_RUSTC={}", String::from_utf8_lossy(&version).trim());
}
