;; The least that a module can cost that reads the path of a request and answers it with the headers that graygate gives to
;; a probe. Memory for the path is always the same.
(module
  (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) ":path")
  (data (i32.const 64) "floor")
  (data (i32.const 128) "policy bench: liveness passed\0a")
  ;; The headers: their number, the sizes of each name and value, and each with a zero byte behind it.
  (data (i32.const 256)
    "\04\00\00\00"
    "\0c\00\00\00\19\00\00\00" "\0d\00\00\00\08\00\00\00" "\04\00\00\00\06\00\00\00" "\16\00\00\00\07\00\00\00"
    "content-type\00text/plain; charset=utf-8\00"
    "cache-control\00no-store\00"
    "vary\00accept\00"
    "x-content-type-options\00nosniff\00")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $size i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_request_headers") (param $id i32) (param $count i32) (param $end i32) (result i32)
    ;; Of the request, map 0, the header whose name is at 32. Where its value is and how many bytes is written to the
    ;; two addresses.
    (drop (call $header (i32.const 0) (i32.const 32) (i32.const 5) (i32.const 16) (i32.const 20)))
    ;; The status, the details, the body, the headers, and no gRPC status.
    (drop (call $reply (i32.const 200) (i32.const 64) (i32.const 5) (i32.const 128) (i32.const 30)
      (i32.const 256) (i32.const 141) (i32.const -1)))
    ;; The proxy must not go on with the request.
    (i32.const 1)))
