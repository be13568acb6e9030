//! An HTTP upstream as a [`Resource`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::fence::drain::Purpose;
use crate::fence::{Claim, FenceName, Token};
use crate::problem::Problem;
use crate::resource::{
    Answering, Boxed, Call, Claimed, Event, FenceInfo, Found, Guarantee, Knock, Look, News, Resource, Tally,
};

use super::fences::Fences;
use super::limits::Limits;
use super::pool::Pool;
use super::rules::Rules;
use super::template::Template;
use super::upstream::Upstream;

/// What an HTTP resource is made of.
#[allow(missing_debug_implementations, reason = "the fences have none")]
pub struct Options {
    /// Its name in the configuration.
    pub name: String,
    /// Its mount point, for paths in headers: `/`, or `/stock` without a slash at its end.
    pub mount: String,
    /// Where its requests go.
    pub upstream: Upstream,
    /// How its fences are named.
    pub fence: Template,
    /// What is a write.
    pub rules: Rules,
    /// Limits towards the upstream.
    pub limits: Limits,
    /// The fences of all HTTP resources.
    pub fences: Arc<Fences>,
    /// Which of their scopes is this resource's.
    pub scope: usize,
    /// Whether writes without a token are refused, as in the scope's policy.
    pub enforce: bool,
}

/// An HTTP upstream behind the gate.
#[allow(missing_debug_implementations, reason = "the fences have none")]
pub struct Http {
    name: String,
    pub(super) mount: String,
    pub(super) template: Template,
    pub(super) rules: Rules,
    pub(super) limits: Limits,
    pub(super) fences: Arc<Fences>,
    pub(super) scope: usize,
    pub(super) enforce: bool,
    pub(super) pool: Arc<Pool>,
    /// When it was last told that the upstream can't be reached, in milliseconds since it was opened.
    complained_at_ms: AtomicU64,
    opened: Instant,
}

/// How often at most it is told that the upstream can't be reached.
const COMPLAIN_EVERY_MS: u64 = 1_000;

impl Http {
    /// Opens it. No connection is made before the first request.
    ///
    /// # Errors
    /// Limits that let nothing through.
    pub fn open(options: Options) -> Result<Http, String> {
        let Options { name, mount, upstream, fence, rules, limits, fences, scope, enforce } = options;
        if limits.connect_time.is_zero() || limits.answer_time.is_zero() || limits.connections_per_thread == 0 {
            return Err(
                "the times to connect and to answer, and the number of connections, have to be above zero".into()
            );
        }
        Ok(Http {
            name,
            mount,
            template: fence,
            rules,
            limits,
            fences,
            scope,
            enforce,
            pool: Pool::new(upstream, limits),
            complained_at_ms: AtomicU64::new(0),
            opened: Instant::now(),
        })
    }

    /// Tells the operators what is wrong with the upstream, now and then.
    pub(super) fn complain(&self, why: &str) {
        let now =
            u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(COMPLAIN_EVERY_MS);
        let before = self.complained_at_ms.load(Ordering::Relaxed);
        if now.saturating_sub(before) >= COMPLAIN_EVERY_MS
            && self.complained_at_ms.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            tracing::warn!(resource = self.name, upstream = %self.upstream(), why, "the upstream can't be reached");
        }
    }

    pub(super) fn upstream(&self) -> &Upstream {
        self.pool.upstream()
    }
}

impl Resource for Http {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "http"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Drained
    }

    fn location(&self) -> String {
        self.upstream().to_string()
    }

    fn fence(&self, name: &str) -> Option<FenceInfo> {
        self.fences.info(self.scope, name)
    }

    fn fences(&self, look: &Look) -> Found {
        // The one that it has whatever the path is stands there before its first claim, too.
        if let Some(fixed) = self.template.fixed() {
            let fits = look.limit > 0 && look.fits(fixed);
            return Found { fences: self.fence(fixed).filter(|_| fits).into_iter().collect(), next: None };
        }
        // The names of other resources need not be looked through.
        let own = self.template.prefix();
        if look.prefix.starts_with(own) {
            self.fences.list(self.scope, look)
        } else if own.starts_with(&look.prefix) {
            self.fences.list(self.scope, &Look { prefix: own.to_owned(), ..look.clone() })
        } else {
            Found::default()
        }
    }

    fn tally(&self) -> Tally {
        let tally = self.fences.tally(self.scope);
        // As above.
        Tally { fences: tally.fences.max(u64::from(self.template.fixed().is_some())), ..tally }
    }

    fn quarantined(&self, limit: usize) -> Vec<FenceInfo> {
        self.fences.quarantined(self.scope, limit)
    }

    fn call(&self, call: Call) -> Answering<'_> {
        self.serve(call)
    }

    fn claim(&self, claim: Claim) -> Boxed<'_, Result<Claimed, Problem>> {
        Box::pin(async move {
            let admitted = self.fences.admit(self.scope, &claim, Purpose::Read).await?;
            Ok(Claimed { verdict: admitted.verdict, previous: admitted.previous })
        })
    }

    fn succeed(&self, claim: Claim, why: &'static str) -> Boxed<'_, Result<bool, Problem>> {
        Box::pin(async move { self.fences.succeed(self.scope, &claim, why).await })
    }

    fn history(&self, fence: &FenceName, before: i64, limit: usize) -> Boxed<'_, Result<Vec<Event>, Problem>> {
        let fence = fence.clone();
        Box::pin(async move { self.fences.history(self.scope, &fence, before, limit).await })
    }

    fn knocks(&self, fence: &FenceName) -> Boxed<'_, Result<Vec<Knock>, Problem>> {
        let fence = fence.clone();
        Box::pin(async move { self.fences.knocks(self.scope, &fence).await })
    }

    fn reset(&self, fence: &FenceName, to: Option<Token>, reason: String) -> Boxed<'_, Result<Option<Token>, Problem>> {
        let fence = fence.clone();
        Box::pin(async move { self.fences.reset(self.scope, &fence, to, reason).await })
    }

    fn release(&self, fence: &FenceName, reason: String) -> Boxed<'_, Result<bool, Problem>> {
        let fence = fence.clone();
        Box::pin(async move { self.fences.release(self.scope, &fence, reason).await })
    }

    fn trouble(&self) -> Option<String> {
        self.fences.trouble()
    }

    fn gauges(&self) -> Vec<(&'static str, f64)> {
        let (open, idle) = self.pool.counts();
        let mut gauges = self.fences.gauges(self.scope);
        gauges.push(("fencegate_http_connections", open as f64));
        gauges.push(("fencegate_http_connections_idle", idle as f64));
        gauges
    }

    fn happened(&self) -> News {
        self.fences.happened(self.scope)
    }

    fn stop(&self) {
        self.pool.close();
        self.fences.stop();
    }
}
