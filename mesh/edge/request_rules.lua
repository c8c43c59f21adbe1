-- What a request may look like before the transcoder reads it.
--
-- The transcoder lets a query overwrite what the path or the body says, and drops what it does not
-- know from a body. So both are decided here, from tables that the contract gives: a query names no
-- field that the path or the body gives, and a body names none that the method does not know.
-- HEAD becomes GET; mesh/edge/error_shape.lua takes its body away again.

-- TREE leads along the parts of a path to the rules of its verbs, TYPES has the fields of messages:
-- both are put in front when this is rendered. A rule has `bound`, the fields that the path or the
-- body gives, and `fields`, the type of the body. A field's value is the type below it, or 0.

local find, sub, byte, gsub, lower = string.find, string.sub, string.byte, string.gsub, string.lower
local QUOTE, BACKSLASH, COMMA, OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 34, 92, 44, 123, 125, 91, 93
local VERBS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
local ORIGIN_NOT_ALLOWED = "Pages of this origin may not call: cors_origins in mesh.toml lists those that may."
-- Strings and brackets of one body that are looked at, in about 5 ms: this is Envoy's own thread, and
-- a body of 2 MiB can be made of 600,000. What comes behind them is not looked at.
local PATIENCE = 20000
local patience
-- What is shown of a name that somebody made up.
local SHOWN = 80

local function refuse(handle, reason, detail, status)
  handle:respond({[":status"] = status or "400", ["icto-reason"] = reason}, detail)
end

-- Without what could break a message: a stranger chose the name.
local function shown(name)
  return (gsub(sub(name, 1, SHOWN), "[^%w_.%-]", "?"))
end

-- The rules of the verbs at a path, or nil.
local function rules_at(parts, index, node)
  local part = parts[index]
  local below, wild = node[part], node["*"]
  if index < #parts then
    return below and rules_at(parts, index + 1, below)
      or wild and rules_at(parts, index + 1, wild) or nil
  end
  local name, verb = part:match("^(.*)(:[^:]*)$")
  if name then
    local custom = node[name] and node[name][verb] or wild and name ~= "" and wild[verb]
    if custom then return custom end
  end
  return below and below[":"] or wild and wild[":"] or nil
end

local function rules_of(path)
  local parts = {}
  for part in path:gmatch("[^/]+") do parts[#parts + 1] = part end
  return #parts > 0 and rules_at(parts, 1, TREE) or nil
end

-- Two spellings of one field are the same here: snake_case and camelCase, encoded and not.
local function plain(name)
  local previous
  repeat
    previous = name
    name = gsub(name, "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  until name == previous
  return lower((gsub(name, "_", "")))
end

local function starts(text, head) return sub(text, 1, #head) == head end

-- The name of a query that is given elsewhere, or nil.
local function misplaced(query, bound)
  for name in query:gmatch("([^&;=]*)=?[^&;]*[&;]?") do
    if name ~= "" then
      local asked = plain(name)
      for _, field in ipairs(bound) do
        if asked == field or starts(asked, field .. ".") or starts(field, asked .. ".") then
          return name
        end
      end
    end
  end
end

-- Position behind the string that begins at `at`; nil when it does not end, or patience does.
local function after_string(text, at)
  patience = patience - 1
  if patience < 0 then return nil end
  local stop = at
  repeat
    stop = find(text, '"', stop + 1, true)
    if not stop then return nil end
    local before = stop - 1
    while byte(text, before) == BACKSLASH do before = before - 1 end
  until (stop - before) % 2 == 1
  return stop + 1
end

-- Position behind any value; nil when it does not end.
local function after_value(text, at)
  local first = byte(text, at)
  if first == QUOTE then return after_string(text, at) end
  if first ~= OPEN_OBJECT and first ~= OPEN_LIST then return find(text, "[,}%]%s]", at) end
  local depth = 0
  repeat
    at = find(text, '["{}%[%]]', at)
    if not at then return nil end
    local found = byte(text, at)
    if found == QUOTE then
      at = after_string(text, at)
      if not at then return nil end
    else
      depth = depth + ((found == OPEN_OBJECT or found == OPEN_LIST) and 1 or -1)
      at = at + 1
      patience = patience - 1
    end
  until depth == 0 or patience < 0
  return patience >= 0 and at or nil
end

local after_object

-- Position behind a value of a type; nil when the text is no JSON, or with a name that is not known.
local function after_typed(text, at, fields, path)
  local first = byte(text, at)
  if fields and first == OPEN_OBJECT then return after_object(text, at, fields, path) end
  if not fields or first ~= OPEN_LIST then return after_value(text, at) end
  at = find(text, "%S", at + 1)
  if at and byte(text, at) == CLOSE_LIST then return at + 1 end
  while at do
    local unknown, among
    if byte(text, at) == OPEN_OBJECT then
      at, unknown, among = after_object(text, at, fields, path)
    else
      at = after_value(text, at)
    end
    if unknown then return nil, unknown, among end
    at = at and find(text, "%S", at)
    if not at then return nil end
    local following = byte(text, at)
    if following == CLOSE_LIST then return at + 1 end
    if following ~= COMMA then return nil end
    at = find(text, "%S", at + 1)
  end
end

after_object = function(text, at, fields, path)
  patience = patience - 1
  if patience < 0 then return nil end
  at = find(text, "%S", at + 1)
  if at and byte(text, at) == CLOSE_OBJECT then return at + 1 end
  while at and byte(text, at) == QUOTE do
    local stop = after_string(text, at)
    if not stop then return nil end
    local name = sub(text, at + 1, stop - 2)
    local below = fields[name]
    if not below then return nil, path .. name, fields end
    local _, colon = find(text, "^%s*:%s*", stop)
    if not colon then return nil end
    local unknown, among
    at, unknown, among = after_typed(text, colon + 1, TYPES[below], path .. name .. ".")
    if unknown then return nil, unknown, among end
    at = at and find(text, "%S", at)
    if not at then return nil end
    local following = byte(text, at)
    if following == CLOSE_OBJECT then return at + 1 end
    if following ~= COMMA then return nil end
    at = find(text, "%S", at + 1)
  end
end

-- How many letters make one word another.
local function distance(one, other)
  local row = {}
  for j = 0, #other do row[j] = j end
  for i = 1, #one do
    local diagonal, letter = row[0], byte(one, i)
    row[0] = i
    for j = 1, #other do
      local change = diagonal + (letter == byte(other, j) and 0 or 1)
      diagonal = row[j]
      row[j] = math.min(change, diagonal + 1, row[j - 1] + 1)
    end
  end
  return row[#other]
end

-- The field that was most probably meant, as JSON names it; nil when there is none.
local function nearest(name, fields)
  local wanted, best, least = plain(sub(name:match("[^.]*$"), 1, SHOWN)), nil, nil
  for candidate in pairs(fields) do
    if not find(candidate, "_", 1, true) then
      local far = distance(wanted, lower(candidate))
      if not best or far < least or far == least and candidate < best then
        best, least = candidate, far
      end
    end
  end
  return best
end

local function told_unknown(unknown, among)
  local meant = nearest(unknown, among)
  local hint = meant and string.format("did you mean '%s'?", meant) or "nothing is known there."
  return string.format("The body names '%s', which this method does not know: %s", shown(unknown), hint)
end

local function is_grpc(headers)
  local content_type = headers:get("content-type") or ""
  return content_type == "application/grpc" or starts(content_type, "application/grpc+")
end

-- The scheme of a token may be written in any case (RFC 9110); what verifies it knows one.
local function one_scheme(headers)
  local value = headers:get("authorization")
  local scheme, token = (value or ""):match("^(%a+) +(.*)$")
  if scheme and lower(scheme) == "bearer" and value ~= "Bearer " .. token then
    headers:replace("authorization", "Bearer " .. token)
  end
end

-- OPTIONS, or a verb that the path does not take.
local function tell_verbs(handle, rules, verb)
  local allowed = {}
  for _, known in ipairs(VERBS) do
    if rules[known == "HEAD" and "GET" or known] or known == "OPTIONS" then
      allowed[#allowed + 1] = known
    end
  end
  local allow = table.concat(allowed, ", ")
  if verb == "OPTIONS" then return handle:respond({[":status"] = "204", allow = allow}) end
  handle:respond({[":status"] = "405", ["icto-reason"] = "METHOD_NOT_ALLOWED", allow = allow},
    string.format("This path takes %s.", allow))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  for name in pairs(headers) do
    if find(name, "_", 1, true) then
      return refuse(handle, "HEADER_NAME_INVALID",
        string.format("The header '%s' has an underscore in its name: write a hyphen.", shown(name)))
    end
  end
  one_scheme(headers)
  -- A replica ends a stream by it, and breaks off a call whose deadline it cannot read.
  local timeout = headers:get("grpc-timeout")
  if timeout and not (#timeout < 10 and find(timeout, "^%d+[HMSmun]$")) then
    headers:remove("grpc-timeout")
  end
  if is_grpc(headers) then return end
  local verb, path = headers:get(":method"), headers:get(":path")
  local bodiless = verb == "HEAD"
  if bodiless then
    verb = "GET"
    headers:replace(":method", verb)
    handle:streamInfo():dynamicMetadata():set("icto", "head", true)
  end
  local path_only, query = path:match("^([^?]*)%??(.*)$")
  local preflight = verb == "OPTIONS" and headers:get("access-control-request-method")
  if preflight then return refuse(handle, "ORIGIN_NOT_ALLOWED", ORIGIN_NOT_ALLOWED, "403") end
  local rules = rules_of(path_only)
  if not rules then
    -- What is not known here must not reach the transcoder, in case it knows better.
    if find(path_only, "^/[%w_]+%.[%w_.]+/") then return end
    return refuse(handle, "METHOD_NOT_FOUND", "There is nothing at this path.", "404")
  end
  local rule = rules[verb]
  if not rule then return tell_verbs(handle, rules, verb) end
  local name = query ~= "" and misplaced(query, rule.bound)
  if name then
    return refuse(handle, "MISPLACED_FIELD", string.format(
      "The query names '%s', which the path or the body of this method gives: leave it out there.",
      shown(name)))
  end
  -- Where events would come for minutes, their head is all that was asked for.
  if bodiless and rule.events then headers:replace("x-icto-callers-deadline", "1S") end
  -- Who will be sent away for want of a token need not send a body.
  local welcome = rule.public or headers:get("authorization")
  local body = rule.fields and welcome and handle:body()
  if not body then return end
  local text = body:getBytes(0, body:length())
  local start = find(text, "%S")
  if not start or byte(text, start) ~= OPEN_OBJECT then return end
  patience = PATIENCE
  local _, unknown, among = after_object(text, start, TYPES[rule.fields], "")
  if unknown then return refuse(handle, "UNKNOWN_FIELD", told_unknown(unknown, among)) end
end
