//! The suite on the backend that is its model.

use axum_taskflow_core::{Memory, conformance::Opened, conformance_tests};

async fn open() -> Opened {
    Opened::new(Memory::default())
}

conformance_tests!(open);
