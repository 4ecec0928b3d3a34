"""openai.OpenAI with the server's address as its base URL."""

import asyncio
import base64
import json

import openai
from checks import check, error_of, main

TEXTS = ["I like you", "paris"]
USER = {"role": "user", "content": "I like you"}
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["paris", "berlin"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


def client(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


def chat(url, **given):
    given = dict({"model": "any", "messages": [USER], "max_tokens": 8, "temperature": 0}, **given)
    return client(url).chat.completions.create(**given)


def embed(url, texts, **given):
    return client(url).embeddings.create(model="any", input=texts, **given)


def needs_grammar(call):
    """A grammar is followed, or refused by the name of the package that the server lacks."""
    try:
        return call()
    except openai.UnprocessableEntityError as error:
        assert "llguidance" in str(error), str(error)
        return None


@check("text-generation")
def chat_completion(url):
    answer = chat(url)
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert chat(url).choices[0].message.content == answer.choices[0].message.content


@check("text-generation")
def chat_completion_stream(url):
    whole = chat(url).choices[0].message.content
    chunks = list(chat(url, stream=True, stream_options={"include_usage": True}))
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 8


@check("text-generation")
def chat_completion_stream_helper(url):
    """The client joins the chunks itself, and checks their form."""
    whole = chat(url).choices[0].message.content
    # The helper raises an error for a text that max_tokens ends.
    given = {"model": "any", "messages": [USER], "max_tokens": 8, "temperature": 0, "stop": whole[-2:]}
    with client(url).chat.completions.stream(**given) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == chat(url, stop=whole[-2:]).choices[0].message.content


@check("text-generation")
def chat_completion_with_parameters(url):
    answer = chat(
        url,
        n=2,
        seed=3,
        stop=["###"],
        temperature=1.2,
        top_p=0.9,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        logit_bias={"5": -100},
        logprobs=True,
        top_logprobs=2,
        user="me",
        metadata={"a": "b"},
        store=False,
        extra_body={"top_k": 20},
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


@check("text-generation")
def completion(url):
    given = {"model": "any", "prompt": "I like you", "max_tokens": 5, "temperature": 0}
    answer = client(url).completions.create(**given, logprobs=1)
    assert len(answer.choices[0].logprobs.tokens) == 5
    chunks = client(url).completions.create(**given, stream=True)
    assert "".join(one.choices[0].text for one in chunks) == answer.choices[0].text


@check("text-generation")
def models(url):
    (model,) = list(client(url).models.list())
    assert client(url).models.retrieve(model.id).id == model.id
    assert chat(url).model == model.id


@check("text-generation")
def structured_output(url):
    for given in (
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    ):
        answer = needs_grammar(
            lambda given=given: chat(url, response_format=given, max_tokens=200, seed=1, temperature=0.7)
        )
        if answer is not None and answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content), dict)


@check("text-generation")
def tools(url):
    assert chat(url, tools=[WEATHER]).choices[0].message.role == "assistant"
    given = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 100, "parallel_tool_calls": False}
    answer = needs_grammar(lambda: chat(url, **given))
    if answer is None:
        return
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["place"] in ("paris", "berlin")
    calls = [
        one for chunk in chat(url, stream=True, **given) for one in (chunk.choices[0].delta.tool_calls or [])
    ]
    assert calls[0].function.name == "get_weather"
    message = answer.choices[0].message.model_dump()
    result = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    assert chat(url, messages=[USER, message, result], tools=[WEATHER]).choices


@check("text-generation")
def asynchronous_client(url):
    async def call():
        made = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none")
        given = {"model": "any", "messages": [USER], "max_tokens": 4, "temperature": 0}
        answers = await asyncio.gather(*(made.chat.completions.create(**given) for _ in range(8)))
        return {one.choices[0].message.content for one in answers}

    assert len(asyncio.run(call())) == 1


@check("text-generation")
def an_error_has_the_message_of_the_server(url):
    error = error_of(lambda: chat(url, n=1000), openai.BadRequestError)
    assert error.param == "n"
    assert error.code == "unsupported_value"
    error = error_of(lambda: chat(url, extra_body={"temprature": 1}), openai.BadRequestError)
    assert "did you mean 'temperature'" in str(error)
    error_of(lambda: client(url).models.retrieve("other"), openai.NotFoundError)


@check("sentence-embeddings")
def embeddings(url):
    """The client asks for base64 by itself, and decodes it."""
    answer = embed(url, TEXTS)
    assert [one.index for one in answer.data] == [0, 1]
    assert all(len(one.embedding) == 32 for one in answer.data)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    floats = embed(url, TEXTS, encoding_format="float")
    for one, other in zip(answer.data, floats.data):
        assert all(abs(a - b) < 1e-6 for a, b in zip(one.embedding, other.embedding))
    raw = embed(url, TEXTS, encoding_format="base64").data[0].embedding
    assert isinstance(raw, str)
    assert len(base64.b64decode(raw)) == 32 * 4


@check("sentence-embeddings")
def embeddings_of_fewer_dimensions(url):
    vector = embed(url, TEXTS[0], dimensions=4, user="me").data[0].embedding
    assert len(vector) == 4
    assert abs(sum(number**2 for number in vector) - 1) < 1e-5
    error = error_of(lambda: embed(url, TEXTS[0], dimensions=33), openai.BadRequestError)
    assert error.param == "dimensions"


@check("sentence-embeddings")
def embeddings_of_token_ids(url):
    assert len(embed(url, [[5, 6], [7]]).data) == 2
    assert len(embed(url, [5, 6]).data) == 1


@check("sentence-embeddings")
def embeddings_with_a_prompt(url):
    prompted = embed(url, "paris", extra_body={"prompt_name": "query"}).data[0].embedding
    plain = embed(url, "what is paris").data[0].embedding
    assert all(abs(a - b) < 1e-5 for a, b in zip(prompted, plain))


@check("sentence-embeddings")
def an_error_of_embeddings_has_the_message_of_the_server(url):
    assert error_of(lambda: embed(url, ""), openai.BadRequestError).param == "input"
    error = error_of(lambda: chat(url), openai.NotFoundError)
    assert "text-generation" in str(error)


@check("sentence-embeddings")
def embeddings_by_invocations(url):
    made = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    answer = made.post("/invocations", cast_to=object, body={"model": "any", "input": TEXTS})
    assert answer["data"][1]["embedding"] == embed(url, TEXTS, encoding_format="float").data[1].embedding


@check("text-generation")
def invocations(url):
    """What SageMaker forwards: the same body, with the same answer."""
    body = {"messages": [USER], "max_tokens": 8, "temperature": 0}
    made = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    answer = made.post("/invocations", cast_to=object, body=body)
    assert answer["choices"][0]["message"]["content"] == chat(url).choices[0].message.content


if __name__ == "__main__":
    main()
