;; The least that a module can cost that answers each request with the headers that graygate gives to a gated one, and
;; looks at none of it.
(module
  (import "env" "proxy_send_local_response"
    (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
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
  (func (export "proxy_on_request_headers") (param $id i32) (param $count i32) (param $end i32) (result i32)
    ;; The status, the details, the body, the headers, and no gRPC status.
    (drop (call $reply (i32.const 503) (i32.const 64) (i32.const 5) (i32.const 128) (i32.const 16)
      (i32.const 256) (i32.const 137) (i32.const -1)))
    ;; The proxy must not go on with the request.
    (i32.const 1)))
