-- What a body may be: JSON, or gRPC's own.
--
-- The transcoder reads every body as JSON, whatever it says it is. But a page of any other site can
-- have a browser send text/plain or a form without asking first (no CORS preflight), with what
-- follows from it: a session cookie that is not the user's, for instance.

local function is_json(media_type)
  return media_type == "application/json" or media_type:find("^application/json%s*;") ~= nil
end

-- Without a length, only the body itself tells of a body.
local function has_body(handle, headers)
  local length = headers:get("content-length")
  if length then return tonumber(length) ~= 0 end
  local body = handle:body()
  return body ~= nil and body:length() > 0
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local media_type = (headers:get("content-type") or ""):lower()
  if media_type:sub(1, 16) == "application/grpc" or is_json(media_type) then return end
  if has_body(handle, headers) then
    -- What callers are told stands in local_replies.py.
    handle:respond({[":status"] = "415"}, "")
  end
end
