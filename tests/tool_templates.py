"""Chat templates with tools, in the manner of three model families, for the small tokenizers."""

import copy

_TOOLS = "{% if tools %}<|system|>Functions: {{ tools | tojson }}<|end|>{% endif %}"
_OPEN = "{{ bos_token }}" + _TOOLS + "{% for message in messages %}<|{{ message.role }}|>"
_CLOSE = "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"

TEMPLATES = {
    "hermes": _OPEN
    + "{% if message.role == 'tool' %}<tool_response>{{ message.content }}</tool_response>"
    "{% else %}{{ message.content }}{% for call in message.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}{% endif %}'
    + _CLOSE,
    # Llama 3.1 takes one call a turn, and writes a tool's result as JSON.
    "llama": _OPEN + "{% if message.tool_calls %}{% if message.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ message.tool_calls[0].function.name }}", '
    '"parameters": {{ message.tool_calls[0].function.arguments | tojson }}}'
    "{% elif message.role == 'tool' %}{{ message.content | tojson }}"
    "{% else %}{{ message.content }}{% endif %}" + _CLOSE,
    # Mistral is strict about ids.
    "mistral": _OPEN
    + "{% if message.tool_calls %}[TOOL_CALLS][{% for call in message.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{ call.function | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]"
    "{% elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.tool_call_id }}"
    "[TOOL_CONTENT]{{ message.content }}{% else %}{{ message.content }}{% endif %}" + _CLOSE,
}


def with_template(tokenizer, name):
    """A copy of a small tokenizer with one of the templates."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATES[name]
    return own
