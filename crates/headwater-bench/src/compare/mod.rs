//! The comparison with other servers, behind `cargo xtask compare`.
