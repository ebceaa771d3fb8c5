//! The configuration server's side of the network: users and components.

pub mod components;
pub mod listener;
