//! The names that Beam's messages use for what they mean.
//!
//! Invariant: each constant is a name of the public specification; a name that is not here is not known to us.

/// Transforms.
pub mod transform {
    /// User code over elements.
    pub const PAR_DO: &str = "beam:transform:pardo:v1";
    /// The union of its inputs.
    pub const FLATTEN: &str = "beam:transform:flatten:v1";
    /// Values brought together by key and window.
    pub const GROUP_BY_KEY: &str = "beam:transform:group_by_key:v1";
    /// One empty element in the global window.
    pub const IMPULSE: &str = "beam:transform:impulse:v1";
    /// Windows assigned anew.
    pub const ASSIGN_WINDOWS: &str = "beam:transform:window_into:v1";
    /// Elements and times given by a test.
    pub const TEST_STREAM: &str = "beam:transform:teststream:v1";
    /// A side input's windows, asked of the SDK.
    pub const MAP_WINDOWS: &str = "beam:transform:map_windows:v1";
    /// Merging of windows, asked of the SDK.
    pub const MERGE_WINDOWS: &str = "beam:transform:merge_windows:v1";
    /// Elements as text.
    pub const TO_STRING: &str = "beam:transform:to_string:v1";
    /// An old-style source.
    pub const READ: &str = "beam:transform:read:v1";
    /// An old-style view.
    pub const CREATE_VIEW: &str = "beam:transform:create_view:v1";
    /// Combines the values of each key.
    pub const COMBINE_PER_KEY: &str = "beam:transform:combine_per_key:v1";
    /// Combines all values.
    pub const COMBINE_GLOBALLY: &str = "beam:transform:combine_globally:v1";
    /// A barrier that spreads elements.
    pub const RESHUFFLE: &str = "beam:transform:reshuffle:v1";
    /// A barrier that spreads elements by key.
    pub const REDISTRIBUTE_BY_KEY: &str = "beam:transform:redistribute_by_key:v1";
    /// A barrier that spreads elements anyhow.
    pub const REDISTRIBUTE_ARBITRARILY: &str = "beam:transform:redistribute_arbitrarily:v1";
    /// Writes files.
    pub const WRITE_FILES: &str = "beam:transform:write_files:v1";
    /// Batches of a key's values.
    pub const GROUP_INTO_BATCHES: &str = "beam:transform:group_into_batches:v1";
    /// Batches of a key's values, a key in many shards.
    pub const GROUP_INTO_BATCHES_WITH_SHARDED_KEY: &str =
        "beam:transform:group_into_batches_with_sharded_key:v1";
    /// Combining before the shuffle.
    pub const COMBINE_PER_KEY_PRECOMBINE: &str = "beam:transform:combine_per_key_precombine:v1";
    /// Merging of accumulators after the shuffle.
    pub const COMBINE_PER_KEY_MERGE_ACCUMULATORS: &str =
        "beam:transform:combine_per_key_merge_accumulators:v1";
    /// Outputs from merged accumulators.
    pub const COMBINE_PER_KEY_EXTRACT_OUTPUTS: &str = "beam:transform:combine_per_key_extract_outputs:v1";
    /// Each value to an accumulator.
    pub const COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS: &str =
        "beam:transform:combine_per_key_convert_to_accumulators:v1";
    /// Combines values that are grouped already.
    pub const COMBINE_GROUPED_VALUES: &str = "beam:transform:combine_grouped_values:v1";
    /// An element and its restriction.
    pub const SDF_PAIR_WITH_RESTRICTION: &str = "beam:transform:sdf_pair_with_restriction:v1";
    /// Restrictions split, with their sizes.
    pub const SDF_SPLIT_AND_SIZE_RESTRICTIONS: &str = "beam:transform:sdf_split_and_size_restrictions:v1";
    /// The work on elements and restrictions.
    pub const SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS: &str =
        "beam:transform:sdf_process_sized_element_and_restrictions:v1";
    /// Restrictions cut short for a drain.
    pub const SDF_TRUNCATE_SIZED_RESTRICTIONS: &str = "beam:transform:sdf_truncate_sized_restrictions:v1";
    /// Where a bundle's input comes in.
    pub const DATA_SOURCE: &str = "beam:runner:source:v1";
    /// Where a bundle's output goes out.
    pub const DATA_SINK: &str = "beam:runner:sink:v1";
}

/// Coders.
pub mod coder {
    /// Bytes.
    pub const BYTES: &str = "beam:coder:bytes:v1";
    /// Text.
    pub const STRING_UTF8: &str = "beam:coder:string_utf8:v1";
    /// A pair.
    pub const KV: &str = "beam:coder:kv:v1";
    /// A truth value.
    pub const BOOL: &str = "beam:coder:bool:v1";
    /// A 64-bit integer.
    pub const VARINT: &str = "beam:coder:varint:v1";
    /// A 64-bit floating-point number.
    pub const DOUBLE: &str = "beam:coder:double:v1";
    /// Any number of elements.
    pub const ITERABLE: &str = "beam:coder:iterable:v1";
    /// Any number of elements, the rest of them behind the state API.
    pub const STATE_BACKED_ITERABLE: &str = "beam:coder:state_backed_iterable:v1";
    /// A timer that is set, fires or is cleared.
    pub const TIMER: &str = "beam:coder:timer:v1";
    /// A window with a start and an end.
    pub const INTERVAL_WINDOW: &str = "beam:coder:interval_window:v1";
    /// A length, then the element.
    pub const LENGTH_PREFIX: &str = "beam:coder:length_prefix:v1";
    /// The one window without an end.
    pub const GLOBAL_WINDOW: &str = "beam:coder:global_window:v1";
    /// A value with time, windows and pane.
    pub const WINDOWED_VALUE: &str = "beam:coder:windowed_value:v1";
    /// A value whose time, windows and pane are in the coder.
    pub const PARAM_WINDOWED_VALUE: &str = "beam:coder:param_windowed_value:v1";
    /// A window of a user's type, behind its last time.
    pub const CUSTOM_WINDOW: &str = "beam:coder:custom_window:v1";
    /// A row of a schema.
    pub const ROW: &str = "beam:coder:row:v1";
    /// A user's type that a schema describes.
    pub const SCHEMA: &str = "beam:coder:schema:v1";
    /// A key with a shard.
    pub const SHARDED_KEY: &str = "beam:coder:sharded_key:v1";
    /// A value or none.
    pub const NULLABLE: &str = "beam:coder:nullable:v1";
}

/// Logical types of schemas.
pub mod logical_type {
    /// A Python function.
    pub const PYTHON_CALLABLE: &str = "beam:logical_type:python_callable:v1";
    /// A time in microseconds.
    pub const MICROS_INSTANT: &str = "beam:logical_type:micros_instant:v1";
    /// A time in milliseconds; alone among these, encoded like an element's time.
    pub const MILLIS_INSTANT: &str = "beam:logical_type:millis_instant:v1";
    /// A decimal number of any size; encoded as a scale and an integer.
    pub const DECIMAL: &str = "beam:logical_type:decimal:v1";
    /// Bytes of one length.
    pub const FIXED_BYTES: &str = "beam:logical_type:fixed_bytes:v1";
    /// Bytes up to a length.
    pub const VAR_BYTES: &str = "beam:logical_type:var_bytes:v1";
    /// Text of one length.
    pub const FIXED_CHAR: &str = "beam:logical_type:fixed_char:v1";
    /// Text up to a length.
    pub const VAR_CHAR: &str = "beam:logical_type:var_char:v1";
    /// A day.
    pub const DATE: &str = "beam:logical_type:date:v1";
    /// A time of a stated precision.
    pub const TIMESTAMP: &str = "beam:logical_type:timestamp:v1";
}

/// Functions that assign windows.
pub mod window_fn {
    /// All in one window.
    pub const GLOBAL: &str = "beam:window_fn:global_windows:v1";
    /// Windows side by side.
    pub const FIXED: &str = "beam:window_fn:fixed_windows:v1";
    /// Windows that overlap.
    pub const SLIDING: &str = "beam:window_fn:sliding_windows:v1";
    /// Windows that end with a gap.
    pub const SESSIONS: &str = "beam:window_fn:session_windows:v1";
}

/// Environments.
pub mod environment {
    /// A container image.
    pub const DOCKER: &str = "beam:env:docker:v1";
    /// A command.
    pub const PROCESS: &str = "beam:env:process:v1";
    /// A service that starts workers.
    pub const EXTERNAL: &str = "beam:env:external:v1";
    /// Whatever the runner takes by default.
    pub const DEFAULT: &str = "beam:env:default:v1";
    /// One of several.
    pub const ANYOF: &str = "beam:env:anyof:v1";
}

/// Files that a pipeline brings.
pub mod artifact {
    /// A file of the submitter's or the staging area's.
    pub const FILE: &str = "beam:artifact:type:file:v1";
    /// A URL.
    pub const URL: &str = "beam:artifact:type:url:v1";
    /// The bytes themselves.
    pub const EMBEDDED: &str = "beam:artifact:type:embedded:v1";
    /// A package of PyPI's.
    pub const PYPI: &str = "beam:artifact:type:pypi:v1";
    /// A package of Maven's.
    pub const MAVEN: &str = "beam:artifact:type:maven:v1";
    /// Known only to the expansion service.
    pub const DEFERRED: &str = "beam:artifact:type:deferred:v1";
    /// To be put under a name in the worker's staging folder.
    pub const ROLE_STAGING_TO: &str = "beam:artifact:role:staging_to:v1";
    /// Names packages to install.
    pub const ROLE_PIP_REQUIREMENTS_FILE: &str = "beam:artifact:role:pip_requirements_file:v1";
    /// The worker's program itself, in Go.
    pub const ROLE_GO_WORKER_BINARY: &str = "beam:artifact:role:go_worker_binary:v1";
}

/// Ways to read a side input.
pub mod side_input {
    /// All of a window's values.
    pub const ITERABLE: &str = "beam:side_input:iterable:v1";
    /// A window's values by key.
    pub const MULTIMAP: &str = "beam:side_input:multimap:v1";
}

/// User state.
pub mod user_state {
    /// A bag.
    pub const BAG: &str = "beam:user_state:bag:v1";
    /// A map from keys to values.
    pub const MULTIMAP: &str = "beam:user_state:multimap:v1";
    /// A list in the order of times.
    pub const ORDERED_LIST: &str = "beam:user_state:ordered_list:v1";
}

/// What a pipeline requires of its runner.
pub mod requirement {
    /// State and timers.
    pub const STATEFUL: &str = "beam:requirement:pardo:stateful:v1";
    /// Calls after a bundle is committed.
    pub const FINALIZATION: &str = "beam:requirement:pardo:finalization:v1";
    /// Input that a retry sees the same.
    pub const STABLE_INPUT: &str = "beam:requirement:pardo:stable_input:v1";
    /// Input in the order of times.
    pub const TIME_SORTED_INPUT: &str = "beam:requirement:pardo:time_sorted_input:v1";
    /// Splittable functions.
    pub const SPLITTABLE_DOFN: &str = "beam:requirement:pardo:splittable_dofn:v1";
    /// Calls when a window expires.
    pub const ON_WINDOW_EXPIRATION: &str = "beam:requirement:pardo:on_window_expiration:v1";
}

/// What an SDK or a runner can do.
pub mod protocol {
    /// Progress as in the first version.
    pub const LEGACY_PROGRESS_REPORTING: &str = "beam:protocol:progress_reporting:v0";
    /// Progress by monitoring infos.
    pub const PROGRESS_REPORTING: &str = "beam:protocol:progress_reporting:v1";
    /// The worker's own status.
    pub const WORKER_STATUS: &str = "beam:protocol:worker_status:v1";
    /// Many bundles at once.
    pub const MULTI_CORE_BUNDLE_PROCESSING: &str = "beam:protocol:multi_core_bundle_processing:v1";
    /// Several workers in one container.
    pub const SIBLING_WORKERS: &str = "beam:protocol:sibling_workers:v1";
    /// Monitoring infos of the whole worker.
    pub const HARNESS_MONITORING_INFOS: &str = "beam:protocol:harness_monitoring_infos:v1";
    /// Elements inside control requests.
    pub const CONTROL_REQUEST_ELEMENTS_EMBEDDING: &str =
        "beam:protocol:control_request_elements_embedding:v1";
    /// A cache of state in the SDK.
    pub const STATE_CACHING: &str = "beam:protocol:state_caching:v1";
    /// Samples of elements.
    pub const DATA_SAMPLING: &str = "beam:protocol:data_sampling:v1";
    /// The SDK says when it took its input.
    pub const SDK_CONSUMING_RECEIVED_DATA: &str = "beam:protocol:sdk_consuming_received_data:v1";
    /// Ordered list state.
    pub const ORDERED_LIST_STATE: &str = "beam:protocol:ordered_list_state:v1";
    /// Metadata beside elements.
    pub const ELEMENT_METADATA: &str = "beam:protocol:element_metadata:v1";
    /// Multimap state.
    pub const MULTIMAP_STATE: &str = "beam:protocol:multimap_state:v1";
    /// Data streams with names.
    pub const NAMED_DATA_STREAMS: &str = "beam:protocol:named_data_streams:v1";
    /// Runner: short names of monitoring infos.
    pub const MONITORING_INFO_SHORT_IDS: &str = "beam:protocol:monitoring_info_short_ids:v1";
    /// Runner: elements inside control responses.
    pub const CONTROL_RESPONSE_ELEMENTS_EMBEDDING: &str =
        "beam:protocol:control_response_elements_embedding:v1";
    /// Runner: all keys and values of a multimap side input in one answer.
    pub const MULTIMAP_KEYS_VALUES_SIDE_INPUT: &str = "beam:protocol:multimap_keys_values_side_input:v1";
}

/// Metrics: what is measured.
pub mod metric {
    /// A user's counter.
    pub const USER_SUM_INT64: &str = "beam:metric:user:sum_int64:v1";
    /// A user's counter of fractions.
    pub const USER_SUM_DOUBLE: &str = "beam:metric:user:sum_double:v1";
    /// A user's distribution.
    pub const USER_DISTRIBUTION_INT64: &str = "beam:metric:user:distribution_int64:v1";
    /// A user's distribution of fractions.
    pub const USER_DISTRIBUTION_DOUBLE: &str = "beam:metric:user:distribution_double:v1";
    /// A user's gauge.
    pub const USER_LATEST_INT64: &str = "beam:metric:user:latest_int64:v1";
    /// A user's gauge of fractions.
    pub const USER_LATEST_DOUBLE: &str = "beam:metric:user:latest_double:v1";
    /// A user's greatest values.
    pub const USER_TOP_N_INT64: &str = "beam:metric:user:top_n_int64:v1";
    /// A user's greatest fractions.
    pub const USER_TOP_N_DOUBLE: &str = "beam:metric:user:top_n_double:v1";
    /// A user's least values.
    pub const USER_BOTTOM_N_INT64: &str = "beam:metric:user:bottom_n_int64:v1";
    /// A user's least fractions.
    pub const USER_BOTTOM_N_DOUBLE: &str = "beam:metric:user:bottom_n_double:v1";
    /// A user's set of strings.
    pub const USER_SET_STRING: &str = "beam:metric:user:set_string:v1";
    /// A user's tree of strings.
    pub const USER_BOUNDED_TRIE: &str = "beam:metric:user:bounded_trie:v1";
    /// A user's histogram.
    pub const USER_HISTOGRAM: &str = "beam:metric:user:histogram_int64:v1";
    /// Elements in a PCollection.
    pub const ELEMENT_COUNT: &str = "beam:metric:element_count:v1";
    /// Sizes of a sample of a PCollection's elements.
    pub const SAMPLED_BYTE_SIZE: &str = "beam:metric:sampled_byte_size:v1";
    /// Time in `start_bundle`.
    pub const START_BUNDLE_MSECS: &str = "beam:metric:pardo_execution_time:start_bundle_msecs:v1";
    /// Time in `process`.
    pub const PROCESS_BUNDLE_MSECS: &str = "beam:metric:pardo_execution_time:process_bundle_msecs:v1";
    /// Time in `finish_bundle`.
    pub const FINISH_BUNDLE_MSECS: &str = "beam:metric:pardo_execution_time:finish_bundle_msecs:v1";
    /// Time in a transform.
    pub const TOTAL_MSECS: &str = "beam:metric:ptransform_execution_time:total_msecs:v1";
    /// Work that remains.
    pub const WORK_REMAINING: &str = "beam:metric:ptransform_progress:remaining:v1";
    /// Work that is done.
    pub const WORK_COMPLETED: &str = "beam:metric:ptransform_progress:completed:v1";
    /// Elements read off the data channel.
    pub const DATA_CHANNEL_READ_INDEX: &str = "beam:metric:data_channel:read_index:v1";
    /// Calls of other services.
    pub const API_REQUEST_COUNT: &str = "beam:metric:io:api_request_count:v1";
    /// Latencies of other services.
    pub const API_REQUEST_LATENCIES: &str = "beam:metric:io:api_request_latencies:v1";
}

/// Metrics: how a payload is encoded.
pub mod metric_type {
    /// An integer.
    pub const SUM_INT64: &str = "beam:metrics:sum_int64:v1";
    /// A fraction.
    pub const SUM_DOUBLE: &str = "beam:metrics:sum_double:v1";
    /// Count, sum, least, greatest.
    pub const DISTRIBUTION_INT64: &str = "beam:metrics:distribution_int64:v1";
    /// The same of fractions.
    pub const DISTRIBUTION_DOUBLE: &str = "beam:metrics:distribution_double:v1";
    /// A time and an integer.
    pub const LATEST_INT64: &str = "beam:metrics:latest_int64:v1";
    /// A time and a fraction.
    pub const LATEST_DOUBLE: &str = "beam:metrics:latest_double:v1";
    /// Greatest integers.
    pub const TOP_N_INT64: &str = "beam:metrics:top_n_int64:v1";
    /// Greatest fractions.
    pub const TOP_N_DOUBLE: &str = "beam:metrics:top_n_double:v1";
    /// Least integers.
    pub const BOTTOM_N_INT64: &str = "beam:metrics:bottom_n_int64:v1";
    /// Least fractions.
    pub const BOTTOM_N_DOUBLE: &str = "beam:metrics:bottom_n_double:v1";
    /// Fractions, one a restriction.
    pub const PROGRESS: &str = "beam:metrics:progress:v1";
    /// A set of strings.
    pub const SET_STRING: &str = "beam:metrics:set_string:v1";
    /// A tree of strings.
    pub const BOUNDED_TRIE: &str = "beam:metrics:bounded_trie:v1";
    /// A histogram.
    pub const HISTOGRAM: &str = "beam:metrics:histogram_int64:v1";
}

/// Labels of metrics.
pub mod label {
    /// A transform's id.
    pub const TRANSFORM: &str = "PTRANSFORM";
    /// A PCollection's id.
    pub const PCOLLECTION: &str = "PCOLLECTION";
    /// A windowing strategy's id.
    pub const WINDOWING_STRATEGY: &str = "WINDOWING_STRATEGY";
    /// A coder's id.
    pub const CODER: &str = "CODER";
    /// An environment's id.
    pub const ENVIRONMENT: &str = "ENVIRONMENT";
    /// A user metric's namespace.
    pub const NAMESPACE: &str = "NAMESPACE";
    /// A user metric's name.
    pub const NAME: &str = "NAME";
}

/// Resource hints.
pub mod resource {
    /// A kind of accelerator.
    pub const ACCELERATOR: &str = "beam:resources:accelerator:v1";
    /// Memory.
    pub const MIN_RAM_BYTES: &str = "beam:resources:min_ram_bytes:v1";
    /// Processors.
    pub const CPU_COUNT: &str = "beam:resources:cpu_count:v1";
    /// Bundles at once on a worker.
    pub const MAX_ACTIVE_BUNDLES_PER_WORKER: &str = "beam:resources:max_active_bundles_per_worker:v1";
}

/// Text and links that a transform shows.
pub const DISPLAY_DATA_LABELLED: &str = "beam:display_data:labelled:v1";
