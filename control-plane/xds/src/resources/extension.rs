//! ECDS: the filters' code. A rebuilt filter is a new version of its resource; no listener changes.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    AsyncDataSource, BackoffStrategy, DataSource, TypedExtensionConfig, async_data_source, data_source,
};
use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm;
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as ConnectionWasm;
use envoy_types::pb::envoy::extensions::wasm::v3::{
    FailurePolicy, PluginConfig, ReloadConfig, VmConfig, plugin_config,
};
use envoy_types::pb::google::protobuf::BytesValue;
use envoy_types::util::pack_any;

use super::{PUSH, duration, flag};

/// How long a worker refuses all requests after a panic of a filter, before it starts the filter again. Envoy's default
/// is a second.
const RELOAD: Duration = Duration::from_millis(100);

/// The filter of requests `name` in the WebAssembly module `module`, with its configuration.
pub fn filter(name: &str, module: &[u8], configuration: Option<Vec<u8>>) -> TypedExtensionConfig {
    let config = Some(plugin(name, module, configuration));
    TypedExtensionConfig { name: name.into(), typed_config: Some(pack_any(Wasm { config })) }
}

/// The filter of connections `name` in the WebAssembly module `module`, with its configuration.
pub fn connection_filter(name: &str, module: &[u8], configuration: Vec<u8>) -> TypedExtensionConfig {
    let config = Some(plugin(name, module, Some(configuration)));
    TypedExtensionConfig { name: name.into(), typed_config: Some(pack_any(ConnectionWasm { config })) }
}

/// The id of the VM that runs the filter `name`. Filters with one id run in one VM in each worker.
///
/// The push filter has a VM of its own: it reads the most bytes of a sandbox, and its crash ends no other request.
fn vm_id(name: &str) -> &'static str {
    if name == PUSH { "push" } else { "sallyport" }
}

/// A filter of the module.
fn plugin(name: &str, module: &[u8], configuration: Option<Vec<u8>>) -> PluginConfig {
    let vm = VmConfig {
        vm_id: vm_id(name).into(),
        runtime: "envoy.wasm.runtime.v8".into(),
        code: Some(AsyncDataSource {
            specifier: Some(async_data_source::Specifier::Local(DataSource {
                specifier: Some(data_source::Specifier::InlineBytes(module.to_vec())),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    PluginConfig {
        name: name.into(),
        root_id: name.into(),
        vm: Some(plugin_config::Vm::VmConfig(vm)),
        configuration: configuration.map(|value| pack_any(BytesValue { value })),
        // A filter that panics refuses the request and starts again. It never lets the request pass.
        failure_policy: FailurePolicy::FailReload.into(),
        reload_config: Some(ReloadConfig {
            backoff: Some(BackoffStrategy { base_interval: Some(duration(RELOAD)), ..Default::default() }),
        }),
        allow_on_headers_stop_iteration: flag(true),
        ..Default::default()
    }
}
