-- A gate by hand for the requests under one path, of an upstream that is known to be down, with the headers that
-- graygate's answer has.
function envoy_on_request(handle)
  if handle:headers():get(":path"):sub(1, 6) == "/items" then
    handle:respond({
      [":status"] = "503",
      ["content-type"] = "text/plain; charset=utf-8",
      ["cache-control"] = "no-store",
      ["x-envoy-ratelimited"] = "true",
      ["retry-after"] = "5",
    }, "not now, please\n")
  end
end
