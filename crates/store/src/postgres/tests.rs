//! Tests that need a look inside: limits, and migrations that do not exist yet.
