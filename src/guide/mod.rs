//! How to use the crate, page by page.
//!
//! Every snippet compiles, and every example that is named here is run by the crate's tests.

#[doc = include_str!("quick_start.md")]
pub mod quick_start {}
#[doc = include_str!("keys.md")]
pub mod keys {}
#[doc = include_str!("tenants.md")]
pub mod tenants {}
#[doc = include_str!("streaming.md")]
pub mod streaming {}
#[doc = include_str!("invalidation.md")]
pub mod invalidation {}
#[doc = include_str!("order.md")]
pub mod order {}
#[doc = include_str!("fleet.md")]
pub mod fleet {}
#[doc = include_str!("cost.md")]
pub mod cost {}
#[doc = include_str!("custom.md")]
pub mod custom {}
#[doc = include_str!("migration.md")]
pub mod migration {}
#[doc = include_str!("faq.md")]
pub mod faq {}
#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}
