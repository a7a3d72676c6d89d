;; The least that a module can cost that does for each request what graygate does for a gated one: it asks where the route
;; leads, answers with the same headers, and counts the request. Memory for the cluster's name is always the same.
(module
  (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "xds\00cluster_name")
  (data (i32.const 64) "floor")
  (data (i32.const 128) "not now, please\0a")
  ;; The headers: their number, the sizes of each name and value, and each with a zero byte behind it.
  (data (i32.const 256)
    "\04\00\00\00"
    "\0c\00\00\00\19\00\00\00" "\0d\00\00\00\08\00\00\00" "\13\00\00\00\04\00\00\00" "\0b\00\00\00\01\00\00\00"
    "content-type\00text/plain; charset=utf-8\00"
    "cache-control\00no-store\00"
    "x-envoy-ratelimited\00true\00"
    "retry-after\005\00")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $size i32) (result i32) (i32.const 4096))
  ;; Of the kind 0, a counter, whose number is written to the last address.
  (func (export "proxy_on_vm_start") (param $id i32) (param $size i32) (result i32)
    (drop (call $define (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 24)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param $id i32) (param $count i32) (param $end i32) (result i32)
    ;; Where the property's value is and how many bytes is written to the two addresses.
    (drop (call $property (i32.const 32) (i32.const 16) (i32.const 16) (i32.const 20)))
    ;; The status, the details, the body, the headers, and no gRPC status.
    (drop (call $reply (i32.const 503) (i32.const 64) (i32.const 5) (i32.const 128) (i32.const 16)
      (i32.const 256) (i32.const 137) (i32.const -1)))
    (drop (call $increment (i32.load (i32.const 24)) (i64.const 1)))
    ;; The proxy must not go on with the request.
    (i32.const 1)))
