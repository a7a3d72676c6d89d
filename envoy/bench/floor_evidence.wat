;; The least that a module can cost that counts each response for the upstream that sent it: it has graygate.wasm's
;; callbacks for a stream, and is handed the response's status, the cluster that the request went to, and what tells who
;; made the response. It does nothing with them. Memory for them is always the same.
(module
  (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) ":status")
  (data (i32.const 64) "xds\00cluster_name")
  (data (i32.const 96) "response\00code_details")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $size i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_context_create") (param $id i32) (param $root i32))
  (func (export "proxy_on_request_headers") (param $id i32) (param $count i32) (param $end i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    ;; Of the response, map 2, the header whose name is at 32. Where its value is and how many bytes is written to the two
    ;; addresses.
    (drop (call $header (i32.const 2) (i32.const 32) (i32.const 7) (i32.const 16) (i32.const 20)))
    (drop (call $property (i32.const 64) (i32.const 16) (i32.const 16) (i32.const 20)))
    (drop (call $property (i32.const 96) (i32.const 21) (i32.const 16) (i32.const 20)))
    (i32.const 0))
  (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_delete") (param $id i32)))
