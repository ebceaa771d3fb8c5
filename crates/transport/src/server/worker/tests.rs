//! Tests of the states of a session.
