-- A liveness probe by hand, with the headers that graygate's answer has.
function envoy_on_request(handle)
  if handle:headers():get(":path") == "/livez" then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "text/plain; charset=utf-8",
      ["cache-control"] = "no-store",
      ["vary"] = "accept",
      ["x-content-type-options"] = "nosniff",
    }, "policy bench: liveness passed\n")
  end
end
