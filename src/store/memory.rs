/// Keeps entries in this process.
#[derive(Debug)]
pub struct Memory;
