"""Other ways to ask the questions of `docs/faq.md`.

Each entry is a heading of that page, then how people ask it, one a line. `{x}` frames are written
out by `TOPICS`: for a topic, every frame of `FRAMES` is a way to ask.
"""

from __future__ import annotations

FRAMES = (
    "What is {}?",
    "What's {}?",
    "Explain {}.",
    "Explain {} to me",
    "Tell me about {}.",
    "Can you explain {}?",
    "How does {} work?",
    "Describe {} in a few words.",
    "{}?",
    "What do you know about {}?",
    "What does {} mean?",
    "I want to know about {}.",
)

TOPICS: dict[str, tuple[str, ...]] = {
    "What is quire?": ("quire", "this project", "the quire project"),
    "What is ChatModel?": ("ChatModel", "the ChatModel class", "`ChatModel`"),
    "What is the native engine?": ("the native engine", "NativeEngine", "quire's own engine"),
    "What is the vLLM engine?": ("the vLLM engine", "VllmEngine"),
    "What is PagedAttention?": ("PagedAttention", "paged attention", "the paged cache"),
    "What is continuous batching?": ("continuous batching", "batching"),
    "What is prefix caching?": ("prefix caching", "the prefix cache"),
    "What is chunked prefill?": ("chunked prefill", "prefill in chunks"),
    "What is copy on write?": ("copy on write", "copy-on-write"),
    "What is preemption?": ("preemption",),
    "What is the KV cache?": ("the KV cache", "the key-value cache", "KV cache"),
    "What is a template?": ("a template", "a chat template", "templates"),
    "What is thinking mode?": ("thinking mode", "thinking", "enable_thinking", "reasoning mode"),
    "What is temperature?": ("temperature", "the temperature"),
    "What is top_p?": ("top_p", "top p", "nucleus sampling"),
    "What is a LoRA adapter?": ("a LoRA adapter", "LoRA", "an adapter"),
    "What is a reward model?": ("a reward model", "get_scores", "the reward model"),
    "What is quire chat?": ("quire chat", "`quire chat`", "the quire chat command"),
    "What is quire prompt?": ("quire prompt", "`quire prompt`", "the quire prompt command"),
    "What does make demo do?": ("make demo", "`make demo`"),
    "What is in a Response?": ("a Response", "the Response class"),
    "What does the finish reason mean?": ("the finish reason", "finish_reason"),
}

_ASKED = """
What is quire?
Tell me what quire does
What can quire do?
What is quire good for?
Give me a short introduction to quire.
What is this software?

What does the name quire mean?
Why is it called quire?
Where does the name come from?
Why the name quire?

Who is quire for?
Who should use quire?
Who uses quire?
For whom was quire made?
What kind of people need quire?

Which licence does quire have?
What is the license?
What license does quire use?
Is quire open source?
Is quire free?
Under which licence is quire?
May I use quire at work?

How do I install quire?
How can I install it?
How to install quire
What is the install command?
pip install?
How do I get quire?
How do I set up quire?

Which Python version does quire need?
Which Python do I need?
What version of Python is required?
Does quire run on Python 3.10?
Does it work with Python 3.12?

Which extras can I install?
What extras are there?
How do I install quire with vLLM?
Which optional packages does quire have?
How do I get the vLLM extra?

Does quire need a GPU?
Do I need a GPU?
Can quire run on a CPU?
Does it run without a GPU?
Can I run quire on my laptop?
Do I need a graphics card?

Does quire need torch?
Do I need PyTorch?
Is torch required?
Does quire depend on torch?
Why is there no torch?
Does the native engine use torch?

Where do I find quire's design?
Where is the architecture described?
How is quire built?
Where can I read about the design?
Is there a description of the architecture?

What is ChatModel?
What does ChatModel do?
Which class do I need?
What is the main class of quire?

How do I use ChatModel?
Show me how to use ChatModel
Give me an example with ChatModel
How do I chat with a model in Python?
Show me some Python code for quire
How do I call quire from Python?
Write code that uses ChatModel.

How do I stream an answer?
How does streaming work?
How do I stream the output?
Can quire stream?
What is stream_chat?
Show me how to stream.
How do I get the text piece by piece?

Can I use quire with asyncio?
Is there an async interface?
Does quire support async?
How do I use achat?
What is astream_chat?
Is quire asynchronous?

Is ChatModel safe to use from many threads?
Is quire thread-safe?
Can I call ChatModel from several threads?
Does it work with threads?
Can many threads use one model?

What is in a Response?
What does chat return?
Which fields does a Response have?
What does a response hold?

What does the finish reason mean?
Which finish reasons are there?
Why did my answer end?
What are the finish reasons?

How do I get several answers at once?
How do I get three answers?
How can I get more than one answer?
What is num_return_sequences?
Can I have several completions?
How do I ask for n completions?

How do I free the memory of a model?
How do I close a model?
How do I unload a model?
What does close do?
Does quire leak memory?

Can I run two models in one process?
Can I load several models at once?
Do two models disturb each other?
Can I use two ChatModels together?

Which engines does quire have?
What engines are there?
How many engines does quire have?
What are the two engines?
Name the engines of quire.
Which backends are there?

What is the native engine?
How is the native engine written?
What does the native engine do?
Does quire have its own engine?

What is the vLLM engine?
What is vLLM used for?
When should I use vLLM?
Which engine is for production?
Does quire support vLLM?

How do I choose the engine?
How do I select the backend?
What is infer_backend?
What does infer_backend auto do?
How do I switch to vLLM?
Which engine is the default?

What is PagedAttention?
Why does quire use PagedAttention?
What are block tables?
How is the cache stored?
What is a block table?

What is continuous batching?
How are requests batched?
Does quire batch requests?
Why is continuous batching good?
How do many requests run together?

What is prefix caching?
Are prompts cached?
Does quire cache prompts?
Why is the second request faster?
How are old prompts used again?

What is chunked prefill?
How are long prompts handled?
Does a long prompt block the others?
Why are prompts cut into chunks?

What is copy on write?
When is a block copied?
How do answers share blocks?
Are blocks shared?

What is preemption?
What does the scheduler do when blocks run out?
What happens when there are no free blocks?
Why was my request paused?

What is the KV cache?
What is in the KV cache?
Why is there a KV cache?
What does KV mean?

How much memory does quire use?
How big is the cache?
How much RAM do I need?
How is the memory chosen?
How do I set the cache size?

Which models can the native engine run?
Which models are supported?
What models does quire support?
Can I run Llama?
Does quire run Qwen3?
Does it support Mistral?
Which architectures does quire know?

Which weight formats can quire read?
Which file formats are supported?
Can I load a .bin file?
Why are .bin files refused?
Does quire read safetensors?
Can quire load pickle weights?

What is the difference between quire and vLLM?
Why not just use vLLM?
How does quire differ from vLLM?
quire or vLLM?
Is quire like vLLM?

Why is quire fast on a CPU?
How fast is quire?
What makes quire fast?
What is Numba used for?
How are the kernels compiled?

What is a template?
What does a template do?
How many templates are there?
Which templates does quire know?

Which template should I use?
Which template is right for my model?
Do I have to set a template?
How do I choose a template?
What template do I need?

How do I see the prompt?
How can I see what the model gets?
Show me the prompt that is sent
How do I look at the prompt?
How do I debug a template?

Can a user's text become a control token?
Is quire safe against prompt injection with special tokens?
What if a user types a special token?
Can users inject control tokens?
Are special tokens in user text safe?

How do tools work?
Does quire support tools?
How do I use tools?
What is function calling?
How do I give the model a tool?
How does tool calling work?

What is thinking mode?
How do I turn off thinking?
How do I switch thinking on?
Can the model think first?
How do I disable reasoning?

How do I set a system prompt?
What is a system prompt?
Where does the system prompt go?
How do I change the system message?
Can I give a system message?

How do I get JSON from a model?
How do I get structured output?
Can I force JSON output?
What is response_format?
How do I make the answer fit a schema?

How do I use a LLaMA-Factory YAML file?
How do I use my YAML?
Can I use my LLaMA-Factory config?
How do I load a YAML file?
Does quire read YAML?
How do I run quire with a config file?
How do I override a setting?

Does quire work with LLaMA-Factory?
Is quire compatible with LLaMA-Factory?
Can I use LLaMA-Factory code?
What is the relation to LLaMA-Factory?
Will my LLaMA-Factory scripts run?

Where do settings come from?
Which setting wins?
What is the order of the settings?
Does the request override the configuration?
What is generation_config.json for?

What are the default settings?
What is the default temperature?
What are the defaults?
Which sampling defaults does quire use?
What is the default of max_new_tokens?

How do I get the same answer each time?
How do I make it deterministic?
How do I use greedy decoding?
What does a seed do?
What is greedy?
How do I set a seed?
How do I turn off sampling?

What is temperature?
How do I set the temperature?
What does temperature 0 do?
What does a high temperature do?

What is top_p?
How do I set top_p?
What does top_p do?

How do I limit the length of an answer?
How do I set the maximum length?
What is max_new_tokens?
My answers are too long, what can I do?
How do I get shorter answers?

How do I stop at a word?
How do stop strings work?
What are stop words?
How do I set a stop string?
What does stop do?

What happens to an unknown option?
What if I misspell an option?
Are unknown options ignored?
What happens with a wrong key?
What if I use an option that quire does not know?

How do I use a LoRA adapter?
How do I load an adapter?
How do I use my LoRA?
What is adapter_name_or_path?
Can I serve several adapters?
Can I switch adapters?
How do I choose an adapter for a request?

What is a LoRA adapter?
What does an adapter do?
What does LoRA change?

What is a reward model?
How do I score an answer?
What does get_scores do?
How do I use a reward model?
Can quire score answers?

What is quire chat?
How do I chat in the terminal?
How do I start a chat?
Is there a command line?
How do I chat with you?

Which commands does quire chat know?
What commands are there?
Which slash commands can I use?
How do I leave the chat?
How do I save the chat?
How do I clear the conversation?
List the commands.

What is quire prompt?
What does quire prompt show?
How do I compare two templates?
How do I see the token ids?

What does make demo do?
How do I see a demo?
Is there a demo?
How do I run the demo?
How do I try quire?

How do I stop an answer?
How do I interrupt the model?
What does Ctrl-C do?
Can I stop the answer?
The answer is too long, how do I stop it?

What happens when an error occurs?
How are errors handled?
Which errors are there?
What is a QuireError?
What happens on errors?
Does one bad request harm the others?
What if something goes wrong?

What happens when the prompt is too long?
What if my prompt is too long?
Is a long prompt cut?
What is a PromptTooLongError?
Does quire truncate prompts?

What happens when the memory is full?
What if the cache is full?
What happens when memory runs out?
Are requests lost when the memory is full?

What happens when I cancel a request?
How do I cancel a request?
Can I abort a request?
What happens when I close the stream?
What happens to an abandoned stream?

How do I set a timeout?
Can a request have a time limit?
What is a RequestTimeoutError?
How do I limit the time of a request?

How do I report a bug?
I found a bug
Where do I report problems?
Something is broken, what should I do?
How do I file an issue?
"""


def paraphrases() -> dict[str, list[str]]:
    """Return, for each heading of the page, all ways to ask it: the heading first."""
    ways: dict[str, list[str]] = {}
    for group in _ASKED.strip().split("\n\n"):
        heading, *others = group.split("\n")
        framed = [frame.format(topic) for topic in TOPICS.get(heading, ()) for frame in FRAMES]
        ways[heading] = list(dict.fromkeys([heading, *others, *framed]))
    return ways
