#![allow(dead_code)]
pub(crate) mod slots;
pub(crate) mod decide;
