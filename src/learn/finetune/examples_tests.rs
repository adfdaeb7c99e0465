use super::*;
use crate::evaluate::truth::read;
use crate::recipe::parse_pipeline;
use std::path::Path;

