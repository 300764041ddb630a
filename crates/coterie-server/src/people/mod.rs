//! What people call.
use crate::registry::Server;
use axum::Router;
use std::sync::Arc;
pub(crate) fn router(server: Arc<Server>) -> Router {
    Router::new().with_state(server)
}
