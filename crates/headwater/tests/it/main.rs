//! Tests of what the library promises its users, as one binary. Each file holds one theme.

mod wire;
