//! Prometheus metrics, at `/metrics`.
//!
//! Invariant: labels have few values: only paths of gRPC methods that this server knows are counted by
//! name. No resource, row or key shows here.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use prost_reflect::DescriptorPool;
use std::collections::HashMap;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

fn answer_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 4.0, 9))
}

/// The counters of one method.
#[derive(Clone, Debug)]
struct Counters {
    requests: Counter,
    seconds: Histogram,
}

/// The counters of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// By the request's path; made beforehand, so that a request takes no lock and makes no label.
    methods: HashMap<String, Counters>,
    others: Counters,
}

impl Metrics {
    /// Counters for the methods of a pool.
    pub(crate) fn new(pool: &DescriptorPool) -> Self {
        let mut registry = Registry::with_prefix("claviger");
        let requests: Family<Method, Counter> = Family::default();
        let seconds: Family<Method, Histogram> =
            Family::new_with_constructor(answer_histogram as fn() -> Histogram);
        registry.register("requests", "gRPC requests answered, by method", requests.clone());
        let help = "Time from a gRPC request's head to its answer's head, by method";
        registry.register_with_unit("answer", help, Unit::Seconds, seconds.clone());
        let counters = |method: String| {
            let label = Method { method };
            let (requests, seconds) = (requests.get_or_create(&label), seconds.get_or_create(&label));
            Counters { requests: requests.clone(), seconds: seconds.clone() }
        };
        let names = pool.services().flat_map(|service| {
            let name = service.full_name().to_owned();
            service.methods().map(move |method| format!("{name}/{}", method.name())).collect::<Vec<_>>()
        });
        let methods = names.map(|name| (format!("/{name}"), counters(name))).collect();
        Self { methods, others: counters("other".to_owned()), registry }
    }

    /// Counts a request that was answered.
    pub(crate) fn answered(&self, path: &str, took: Duration) {
        let counters = self.methods.get(path).unwrap_or(&self.others);
        counters.requests.inc();
        counters.seconds.observe(took.as_secs_f64());
    }

    /// All counters in Prometheus's text format.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
