-- The least that a Lua filter costs: it is called, and does nothing.
function envoy_on_request(handle)
end
