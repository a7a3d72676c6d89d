-- A liveness probe by hand.
function envoy_on_request(handle)
  if handle:headers():get(":path") == "/livez" then
    handle:respond({[":status"] = "200"}, "policy bench: liveness passed\n")
  end
end
