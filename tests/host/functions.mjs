// The functions that the host lends a module, by the ABI 0.2.1, with the statuses that Envoy 1.40 gives back.
//
// Each takes the VM and the module's own arguments. A header that is absent is NOT_FOUND; a map that is not at hand in
// this callback is BAD_ARGUMENT: as in Envoy.

import { deserialize, ID_STEP, METRIC_KINDS, Status, serialize } from "./abi.mjs";
import { attribute } from "./attributes.mjs";

/** Foreign functions that Envoy has, of those that return nothing. */
const FOREIGN = ["clear_route_cache", "set_envoy_filter_state"];

/** WASI's status for what a host does not support. */
const ENOTSUP = 58;

const map = (vm, type) => vm.context.map(type);

/** Writes to a map that is at hand, by `edit`. */
function write(vm, type, edit) {
  const headers = vm.context.isLogged ? undefined : map(vm, type);
  if (!headers) return Status.BAD_ARGUMENT;
  edit(headers);
  return Status.OK;
}

function remove(headers, name) {
  for (let place = headers.length - 1; place >= 0; place -= 1) {
    if (headers[place][0] === name) headers.splice(place, 1);
  }
}

const key = (vm, pointer, size) => vm.text(pointer, size).toLowerCase();

const HEADERS = {
  proxy_get_header_map_value(vm, type, name, nameSize, value, valueSize) {
    const headers = map(vm, type);
    if (!headers) return Status.BAD_ARGUMENT;
    const wanted = key(vm, name, nameSize);
    // Of a header that is repeated, the first.
    const found = headers.find(([known]) => known === wanted);
    if (!found) return Status.NOT_FOUND;
    return vm.give(found[1], value, valueSize);
  },
  proxy_get_header_map_pairs(vm, type, value, valueSize) {
    const headers = map(vm, type);
    return vm.give(headers?.length ? serialize(headers) : "", value, valueSize);
  },
  proxy_get_header_map_size(vm, type, size) {
    const headers = map(vm, type);
    if (!headers) return Status.BAD_ARGUMENT;
    return vm.put(
      size,
      headers.reduce((sum, [name, value]) => sum + name.length + value.length, 0),
    );
  },
  proxy_add_header_map_value(vm, type, name, nameSize, value, valueSize) {
    const added = [key(vm, name, nameSize), vm.text(value, valueSize)];
    return write(vm, type, (headers) => headers.push(added));
  },
  proxy_replace_header_map_value(vm, type, name, nameSize, value, valueSize) {
    const [wanted, text] = [key(vm, name, nameSize), vm.text(value, valueSize)];
    return write(vm, type, (headers) => {
      const place = headers.findIndex(([known]) => known === wanted);
      remove(headers, wanted);
      headers.splice(place < 0 ? headers.length : place, 0, [wanted, text]);
    });
  },
  proxy_remove_header_map_value(vm, type, name, nameSize) {
    const wanted = key(vm, name, nameSize);
    return write(vm, type, (headers) => remove(headers, wanted));
  },
  proxy_set_header_map_pairs(vm, type, pairs, size) {
    const all = deserialize(vm.text(pairs, size)).map(([name, value]) => [name.toLowerCase(), value]);
    return write(vm, type, (headers) => headers.splice(0, headers.length, ...all));
  },
};

const BUFFERS = {
  proxy_get_buffer_bytes(vm, type, start, length, value, valueSize) {
    const buffer = vm.context.buffer(type);
    if (buffer === undefined) return Status.NOT_FOUND;
    const part = buffer.slice(start >>> 0, (start >>> 0) + (length >>> 0));
    return part === "" ? Status.OK : vm.give(part, value, valueSize);
  },
  proxy_set_buffer_bytes(vm, type, start, length, data, size) {
    const buffer = vm.context.buffer(type);
    if (buffer === undefined) return Status.NOT_FOUND;
    const [from, to] = [start >>> 0, (start >>> 0) + (length >>> 0)];
    vm.context.setBuffer(type, buffer.slice(0, from) + vm.text(data, size) + buffer.slice(to));
    return Status.OK;
  },
};

const PROPERTIES = {
  proxy_get_property(vm, path, pathSize, value, valueSize) {
    const found = attribute(vm.context, vm.text(path, pathSize));
    return found === undefined ? Status.NOT_FOUND : vm.give(found, value, valueSize);
  },
  proxy_set_property(vm, path, pathSize, value, valueSize) {
    if (!vm.context.isStream) return Status.NOT_FOUND;
    vm.context.properties.set(vm.text(path, pathSize), vm.text(value, valueSize));
    return Status.OK;
  },
};

const STORE = {
  proxy_get_shared_data(vm, name, nameSize, value, valueSize, version) {
    const entry = vm.proxy.store.get(vm.text(name, nameSize));
    if (!entry) return Status.NOT_FOUND;
    vm.give(entry.value, value, valueSize);
    return vm.put(version, entry.version);
  },
  proxy_set_shared_data(vm, name, nameSize, value, valueSize, version) {
    const [known, text] = [vm.text(name, nameSize), vm.text(value, valueSize)];
    return vm.proxy.put(known, text, version >>> 0) ? Status.OK : Status.CAS_MISMATCH;
  },
};

const METRICS = {
  proxy_define_metric(vm, kind, name, nameSize, id) {
    if (!(kind in METRIC_KINDS)) return Status.BAD_ARGUMENT;
    const metric = vm.proxy.metric(vm.text(name, nameSize), METRIC_KINDS[kind]);
    // Another id each time, for the same metric.
    const next = (vm.metrics.length + 1) * ID_STEP + kind;
    vm.metrics.push(metric);
    return vm.put(id, next);
  },
  proxy_increment_metric(vm, id, by) {
    const metric = vm.metricOf(id);
    if (!metric) return Status.NOT_FOUND;
    if (metric.kind === "histogram" || (metric.kind === "counter" && by <= 0n)) return Status.BAD_ARGUMENT;
    metric.value += Number(by);
    return Status.OK;
  },
  proxy_record_metric(vm, id, value) {
    const metric = vm.metricOf(id);
    if (!metric) return Status.NOT_FOUND;
    metric.value = metric.kind === "counter" ? metric.value + Number(value) : Number(value);
    return Status.OK;
  },
  proxy_get_metric(vm, id, value) {
    const metric = vm.metricOf(id);
    return metric ? vm.put64(value, BigInt(metric.value)) : Status.NOT_FOUND;
  },
};

const CALLOUTS = {
  proxy_http_call(
    vm,
    cluster,
    clusterSize,
    headers,
    headersSize,
    _body,
    _bodySize,
    _trailers,
    _trailersSize,
    timeout,
    token,
  ) {
    const call = {
      cluster: vm.text(cluster, clusterSize),
      headers: new Map(deserialize(vm.text(headers, headersSize))),
      timeout: timeout >>> 0,
    };
    const isWhole = [":method", ":path", ":authority"].every((name) => call.headers.has(name));
    if (!isWhole || !vm.proxy.clusters(call.cluster)) return Status.BAD_ARGUMENT;
    return vm.put(token, vm.context.root.send(call));
  },
};

const CONTEXTS = {
  proxy_set_effective_context(vm, id) {
    if (!vm.contexts.has(id >>> 0)) return Status.BAD_ARGUMENT;
    vm.effective = vm.contexts.get(id >>> 0);
    return Status.OK;
  },
  proxy_continue_stream(vm) {
    if (!vm.context.isStream) return Status.BAD_ARGUMENT;
    vm.context.isResumed = true;
    return Status.OK;
  },
  proxy_set_tick_period_milliseconds(vm, period) {
    vm.context.root.setTick(period >>> 0);
    return Status.OK;
  },
  proxy_send_local_response(vm, status, details, detailsSize, body, bodySize, headers, headersSize, grpcStatus) {
    if (vm.context.isStream) {
      // The first one counts. It goes out when the callback has returned.
      vm.context.reply ??= {
        status: status >>> 0,
        details: vm.text(details, detailsSize),
        body: vm.text(body, bodySize),
        headers: deserialize(vm.text(headers, headersSize)),
        grpcStatus,
      };
    }
    return Status.OK;
  },
  proxy_call_foreign_function(vm, name, nameSize, _arguments, _argumentsSize, result, resultSize) {
    const wanted = vm.text(name, nameSize);
    if (!FOREIGN.includes(wanted)) return Status.NOT_FOUND;
    if (result) vm.put(result, 0);
    if (resultSize) vm.put(resultSize, 0);
    return Status.OK;
  },
  proxy_done: () => Status.OK,
};

const SYSTEM = {
  proxy_log(vm, level, message, size) {
    vm.proxy.log(level, vm.text(message, size));
    return Status.OK;
  },
  proxy_get_log_level: (vm, level) => vm.put(level, 2),
  proxy_get_current_time_nanoseconds: (vm, time) => vm.put64(time, BigInt(vm.proxy.date) * 1_000_000n),
};

const WASI = {
  random_get(vm, buffer, size) {
    for (let place = 0; place < size >>> 0; place += 1) vm.bytes[(buffer >>> 0) + place] = vm.proxy.random();
    return 0;
  },
  clock_time_get(vm, clock, _precision, time) {
    // The numbers of the wall clock and of the monotonic one. Envoy has no others.
    const readings = [vm.proxy.date, vm.proxy.now];
    if (!(clock in readings)) return ENOTSUP;
    vm.put64(time, BigInt(readings[clock]) * 1_000_000n);
    return 0;
  },
  fd_write(vm, _file, parts, count, written) {
    let text = "";
    for (let place = 0; place < count; place += 1) {
      const at = (parts >>> 0) + 8 * place;
      text += vm.text(vm.bytes.readUInt32LE(at), vm.bytes.readUInt32LE(at + 4));
    }
    vm.proxy.log(2, text);
    vm.put(written, text.length);
    return 0;
  },
  environ_sizes_get(vm, count, size) {
    vm.put(count, 0);
    vm.put(size, 0);
    return 0;
  },
  environ_get: () => 0,
  proc_exit(_vm, code) {
    throw new Error(`proc_exit ${code}`);
  },
};

export const FUNCTIONS = {
  env: {
    ...HEADERS,
    ...BUFFERS,
    ...PROPERTIES,
    ...STORE,
    ...METRICS,
    ...CALLOUTS,
    ...CONTEXTS,
    ...SYSTEM,
  },
  wasi_snapshot_preview1: WASI,
};

/** What a module may call before its VM has started. */
export const BEFORE_START = ["proxy_log", ...Object.keys(WASI)];

const named = (place) => (vm, args) => vm.text(args[place], args[place + 1]).replaceAll("\0", ".");
const metric = (vm, [id]) => vm.metricOf(id)?.name ?? "";

/** What a call is about, for those who read a list of calls. */
export const ABOUT = {
  proxy_get_header_map_value: named(1),
  proxy_add_header_map_value: named(1),
  proxy_replace_header_map_value: named(1),
  proxy_remove_header_map_value: named(1),
  proxy_get_property: named(0),
  proxy_set_property: named(0),
  proxy_get_shared_data: named(0),
  proxy_set_shared_data: named(0),
  proxy_define_metric: named(1),
  proxy_increment_metric: metric,
  proxy_record_metric: metric,
  proxy_http_call: named(0),
  proxy_call_foreign_function: named(0),
  proxy_log: named(1),
};
