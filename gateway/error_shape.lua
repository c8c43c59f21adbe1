-- The one shape of errors at the edge.
--
-- REST: the transcoder's {"code", "message", "details"} becomes application/problem+json (RFC 9457)
-- with type, title, status, detail, reason and trace_id in front of what was there.
-- gRPC: an error that Envoy made itself gets google.rpc.Status with ErrorInfo, as a service's has.

-- TITLES, by HTTP status, is put in front of this file when it is rendered.
local RESOURCE_EXHAUSTED = "8"

-- The raw JSON string (without quotes) after `key` in `text`, or nil.
local function json_string(text, key)
  local _, start = text:find('"' .. key .. '":"', 1, true)
  if not start then return nil end
  local position = start + 1
  while true do
    local stop = text:find('["\\]', position)
    if not stop then return nil end
    if text:sub(stop, stop) == '"' then return text:sub(start + 1, stop - 1) end
    position = stop + 2
  end
end

-- A length-delimited protobuf field.
local function field(number, bytes)
  local length, head = #bytes, string.char(number * 8 + 2)
  if length < 128 then return head .. string.char(length) .. bytes end
  return head .. string.char(length % 128 + 128, math.floor(length / 128)) .. bytes
end

-- google.rpc.Status{code, message, details: [ErrorInfo{reason, domain, metadata.trace_id}]}.
local function status_details(code, message, reason, trace_id)
  local info = field(1, reason) .. field(2, "icto")
  if trace_id then info = info .. field(3, field(1, "trace_id") .. field(2, trace_id)) end
  local any = field(1, "type.googleapis.com/google.rpc.ErrorInfo") .. field(2, info)
  return string.char(8, tonumber(code)) .. field(2, message) .. field(3, any)
end

local function unescaped(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- An error that Envoy made for a gRPC caller.
local function complete_grpc(handle, headers)
  local reason = headers:get("icto-reason")
  local status = headers:get("grpc-status")
  if not reason or not status or status == "0" or headers:get("grpc-status-details-bin") then
    return
  end
  if reason == "REQUEST_TOO_LARGE" or reason == "RATE_LIMITED" then
    status = RESOURCE_EXHAUSTED
    headers:replace("grpc-status", status)
  end
  local trace_id = headers:get("x-icto-trace-id")
  local message = unescaped(headers:get("grpc-message") or "")
  if trace_id then headers:replace("icto-trace-id", trace_id) end
  local details = status_details(status, message, reason, trace_id)
  headers:add("grpc-status-details-bin", handle:base64Escape(details))
end

-- An error that a service answered to a REST caller.
local function complete_rest(handle, headers, status)
  local trace_id = headers:get("x-icto-trace-id")
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ""
  if text:sub(1, 8) ~= '{"code":' then return end
  local reason = json_string(text, "reason") or "UNKNOWN"
  local head = string.format(
    '{"type":"https://icto.dev/errors/%s","title":"%s","status":%d,"detail":"%s","reason":"%s",'
      .. '"domain":"icto","trace_id":"%s",',
    reason, TITLES[status] or "Error", status, json_string(text, "message") or "", reason,
    trace_id or "")
  body:setBytes(head .. text:sub(2))
  -- Fetched again: the object from before the body was read is out of scope.
  handle:headers():replace("content-type", "application/problem+json")
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = tonumber(headers:get(":status"))
  local content_type = headers:get("content-type") or ""
  if content_type:sub(1, 16) == "application/grpc" then
    complete_grpc(handle, headers)
  elseif status >= 400 and content_type == "application/json" then
    complete_rest(handle, headers, status)
  end
end
