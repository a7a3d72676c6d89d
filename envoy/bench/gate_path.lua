-- A gate by hand for the requests under one path, of an upstream that is known to be down.
function envoy_on_request(handle)
  if handle:headers():get(":path"):sub(1, 6) == "/items" then
    handle:respond({[":status"] = "503", ["retry-after"] = "5"}, "not now, please\n")
  end
end
