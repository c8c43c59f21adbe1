-- The one shape of errors at the edge.
--
-- REST: the transcoder's {"code", "message", "details"} becomes application/problem+json (RFC 9457)
-- with type, title, status, detail, reason and trace_id in front of what was there.
-- gRPC: an error that nobody typed, as Envoy's own, gets google.rpc.Status with ErrorInfo, as a
-- service's has; gRPC-Web gets it with HTTP status 200, or its clients would not read it.

-- TITLES, by HTTP status, CODES, names of gRPC's, and MALFORMED, what is said of a body that does not
-- fit, are put in front when this is rendered.

-- Where Envoy and the transcoder have no status that fits.
local GRPC_STATUS = {
  REQUEST_TOO_LARGE = "8", RATE_LIMITED = "8", DEADLINE_EXCEEDED = "4", HEADER_NAME_INVALID = "3",
}
local HTTP_STATUS = {REQUEST_TOO_LARGE = "413", IF_MATCH_FAILED = "412"}
-- An error without ErrorInfo is not ours; its words speak of sockets and settings.
local UNTYPED = "The service ended the call without saying why. The trace id finds it."
-- What gRPC says to gRPC clients, and means nothing to others.
local LEFTOVERS = {
  "grpc-status", "grpc-message", "grpc-accept-encoding", "icto-trace-id", "icto-retriable",
  "icto-http-status",
}

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

-- An error that came without details: Envoy's own has a reason, gRPC's has not.
local function complete_grpc(handle, headers, status)
  local reason = headers:get("icto-reason")
  if not reason then
    reason = CODES[tonumber(status)] or "UNKNOWN"
    headers:replace("icto-reason", reason)
    headers:replace("grpc-message", UNTYPED)
  end
  status = GRPC_STATUS[reason] or status
  headers:replace("grpc-status", status)
  local trace_id = headers:get("x-icto-trace-id")
  if trace_id then headers:replace("icto-trace-id", trace_id) end
  local message = unescaped(headers:get("grpc-message") or "")
  local details = status_details(status, message, reason, trace_id)
  headers:add("grpc-status-details-bin", handle:base64Escape(details))
end

-- An error that a service answered to a REST caller.
local function complete_rest(handle, headers, status)
  local trace_id = headers:get("x-icto-trace-id") or ""
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ""
  local code = text:match('^{"code":(%d+)')
  if not code then return end
  local reason, detail, rest = json_string(text, "reason"), json_string(text, "message"), text:sub(2)
  if not reason then
    reason, detail = CODES[tonumber(code)] or "UNKNOWN", UNTYPED
    rest = string.format('"code":%s,"message":"%s","details":[]}', code, detail)
  end
  status = HTTP_STATUS[reason] or status
  local head = string.format(
    '{"type":"https://icto.dev/errors/%s","title":"%s","status":%s,"detail":"%s","reason":"%s",'
      .. '"domain":"icto","trace_id":"%s",',
    reason, TITLES[tonumber(status)] or "Error", status, detail or "", reason, trace_id)
  body:setBytes(head .. rest)
  -- Fetched again: the object from before the body was read is out of scope.
  headers = handle:headers()
  headers:replace(":status", status)
  headers:replace("content-type", "application/problem+json")
end

-- What a JSON value must be, by the type of its field.
local WANTED = {
  STRING = "must be text, in quotes", BYTES = "must be base64, in quotes",
  BOOL = "must be true or false", DOUBLE = "must be a number", FLOAT = "must be a number",
  ENUM = "must be one of the names in its list",
}

-- The transcoder's words about a value that it does not take, as the field's name and what is wrong.
local function about_value(said)
  local field, kind = said:match("^([%w_%.%[%]]+): invalid value .* for type ([%w_%./]+)$")
  if field then
    local scalar = kind:match("^TYPE_(%u+)")
    local wanted = scalar and (WANTED[scalar] or "must be a whole number that fits in it")
    return field, wanted or ("does not have the form of a " .. kind:match("[%w_]+$"))
  end
  field = said:match("^: invalid value Starting an object on a scalar field for type ([%w_]+)$")
  if field then return field, "must be a single value" end
end

-- A body that the transcoder did not take: which field it was, where it says so.
local function complete_malformed(handle)
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ""
  local said = json_string(text, "detail")
  if not said then return end
  local field, problem = about_value(said)
  local words = field and (field .. " " .. problem .. ".") or MALFORMED
  local start, stop = text:find('"detail":"' .. said .. '"', 1, true)
  body:setBytes(text:sub(1, start - 1) .. '"detail":"' .. words .. '"' .. text:sub(stop + 1))
end

-- Envoy knows gRPC-Web by media types in lower case and without parameters; clients send both.
function envoy_on_request(handle)
  local headers = handle:headers()
  local media_type = headers:get("content-type")
  if not media_type or #media_type < 20 then return end
  local plain = media_type:lower():match("^%s*(application/grpc%-web[^;%s]*)")
  if plain and plain ~= media_type then headers:replace("content-type", plain) end
end

-- HEAD was asked for (mesh/edge/request_rules.lua made it GET): all of the answer but its body.
local function without_body(handle)
  local asked = handle:streamInfo():dynamicMetadata():get("icto")
  local body = asked and asked.head and handle:body()
  if not body then return end
  local length = body:length()
  body:setBytes("")
  handle:headers():replace("content-length", tostring(length))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local content_type = headers:get("content-type") or ""
  -- For caches: whom an answer of ours may be read by depends on who asks.
  if content_type:sub(1, 16) ~= "application/grpc" or content_type:sub(17, 20) == "-web" then
    headers:add("vary", "Origin")
  end
  if content_type:sub(1, 16) == "application/grpc" then
    local status = headers:get("grpc-status")
    if not status or status == "0" then return end
    if not headers:get("grpc-status-details-bin") then complete_grpc(handle, headers, status) end
    headers:replace(":status", "200")
    return
  end
  local told = headers:get("icto-http-status")
  if told then
    headers:replace(":status", told)
    headers:remove("content-type")
  end
  for _, name in ipairs(LEFTOVERS) do headers:remove(name) end
  local status = headers:get(":status")
  if content_type == "application/json" and tonumber(status) >= 400 then
    complete_rest(handle, headers, status)
  elseif headers:get("icto-reason") == "MALFORMED_REQUEST" and status == "400" then
    complete_malformed(handle)
  end
  without_body(handle)
end
