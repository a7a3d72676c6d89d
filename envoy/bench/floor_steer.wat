;; The least that a module can cost that reads the path of every request and looks for a header that releases steer by, as
;; graygate does for a request that it lets pass. It does nothing with them. Memory for the path is always the same.
(module
  (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) ":path")
  (data (i32.const 64) "x-gray-version")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $size i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_request_headers") (param $id i32) (param $count i32) (param $end i32) (result i32)
    ;; Of the request, map 0, the header whose name is at 32, and the one at 64, which it does not have. Where the value
    ;; is and how many bytes is written to the two addresses.
    (drop (call $header (i32.const 0) (i32.const 32) (i32.const 5) (i32.const 16) (i32.const 20)))
    (drop (call $header (i32.const 0) (i32.const 64) (i32.const 14) (i32.const 16) (i32.const 20)))
    (i32.const 0)))
