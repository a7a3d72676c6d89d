-- What any filter by hand begins with: it looks at the path, and lets the request pass.
function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  if path == nil then
    handle:logErr("no path")
  end
end
