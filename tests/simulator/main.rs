//! The simulated provider of the router example.

#[path = "../../examples/router/simulator/mod.rs"]
mod simulator;
