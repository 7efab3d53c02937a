//! What the binary promises, tested from outside: one file per theme.

mod command_line;
mod settings;
