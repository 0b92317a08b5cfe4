//! x
/// D
#[derive(Debug)]
pub struct Driver;
/// E
#[derive(Debug)]
pub struct DriverError;
