//! A coordinator as it is asked here, behind a trait object.

use tokio::sync::mpsc::UnboundedReceiver;

use crate::coordinator::{CoordinatorError, Follow, Followed, Leader, Told};
use crate::fence::FenceName;
use crate::resource::Boxed;

/// A coordinator that can be asked who leads, and followed.
pub trait Source: Send + Sync {
    /// Who leads now. The answer is no older than the call.
    fn leader<'a>(&'a self, election: &'a FenceName) -> Boxed<'a, Result<Option<Leader>, CoordinatorError>>;

    /// See [`Follow::follow`].
    fn follow<'a>(&'a self, followed: &'a Followed) -> Boxed<'a, Result<UnboundedReceiver<Told>, CoordinatorError>>;
}

impl<C: Follow> Source for C {
    fn leader<'a>(&'a self, election: &'a FenceName) -> Boxed<'a, Result<Option<Leader>, CoordinatorError>> {
        Box::pin(async move { C::leader(self, election).await })
    }

    fn follow<'a>(&'a self, followed: &'a Followed) -> Boxed<'a, Result<UnboundedReceiver<Told>, CoordinatorError>> {
        Box::pin(async move { C::follow(self, followed).await })
    }
}
