-- A gate by hand for all requests, of an upstream that is known to be down.
function envoy_on_request(handle)
  handle:respond({[":status"] = "503", ["retry-after"] = "5"}, "not now, please\n")
end
