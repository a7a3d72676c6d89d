-- The mix of requests that wrk sends, drawn anew for each: users, a probe, gated ones, and bytes that are no text.

local function bytes(most)
  local all = {}
  for place = 1, math.random(0, most) do
    -- Not the bytes that end a line, a value or a request: the proxy refuses those before any filter.
    all[place] = string.char(math.random(33, 255))
  end
  return table.concat(all):gsub("\127", "")
end

local kinds = {
  function() return "/", {} end,
  function() return "/reviews/7", { ["x-user"] = "user-" .. math.random(1, 1000000) } end,
  function() return "/orders/7", { ["cookie"] = "gray-id=user-" .. math.random(1, 1000000) } end,
  function() return "/orders/8", {} end,
  function() return "/app", { ["x-user"] = "alice" } end,
  function() return "/livez", { ["user-agent"] = "kube-probe/1.34" } end,
  function() return "/closed", {} end,
  function() return "/app?" .. math.random(1, 9), { ["x-user"] = bytes(30), ["cookie"] = "gray-id=" .. bytes(300) } end,
}

function request()
  local path, headers = kinds[math.random(#kinds)]()
  return wrk.format("GET", path, headers)
end
