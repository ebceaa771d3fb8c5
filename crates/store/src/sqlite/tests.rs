//! Tests that need a look inside: migrations that do not exist yet.
