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
/// What OpenTelemetry's semantic conventions advise for calls of models and their tokens.
const CALL_SECONDS: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const CALL_TOKENS: [f64; 14] =
    [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

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
        .set_buckets_for_metric(Matcher::Full("gen_ai.client.operation.duration".to_owned()), &CALL_SECONDS)?
        .set_buckets_for_metric(Matcher::Full("gen_ai.client.token.usage".to_owned()), &CALL_TOKENS)
}
