//! Numbers for Prometheus.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tower_response_cache::observe::MetricsObserver;

/// What is counted, and how it is shown.
#[derive(Clone)]
pub(crate) struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    shown: PrometheusHandle,
}

/// From answers out of memory to such as think for minutes.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0];
const TOKENS: [f64; 9] = [1.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 1_048_576.0];

/// How often what was counted is put together, if nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

impl Metrics {
    pub(crate) fn new() -> Self {
        // Without buckets of its own, a histogram is shown as quantiles: that they cannot be set is no reason not to run.
        let builder = with_buckets().unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let shown = recorder.handle();
        Self { recorder: Arc::new(recorder), shown }
    }

    pub(crate) fn observer(&self) -> MetricsObserver {
        MetricsObserver::with_recorder(Arc::clone(&self.recorder) as _)
    }

    /// In Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        self.shown.render()
    }

    /// Puts together what was counted, so that it takes no more and more memory while nobody asks.
    pub(crate) async fn keep_up(self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.shown.run_upkeep();
        }
    }
}

fn with_buckets() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("usage".to_owned()), &TOKENS)
}
