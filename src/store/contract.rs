//! A test suite that any store has to pass.
