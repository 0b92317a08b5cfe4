//! The tables of MetalLB's allocator tests, told anew, and the properties that no table can cover.

mod properties;
