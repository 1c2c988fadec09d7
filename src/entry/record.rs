//! The versioned binary form of a record.
