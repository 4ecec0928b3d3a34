"""langchain-openai: ChatOpenAI, OpenAI and OpenAIEmbeddings with the server's address as their base URL."""

import asyncio

from checks import check, main
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

PROMPT = "I like you"


def model(url, **more):
    given = {"max_tokens": 8, "temperature": 0, "max_retries": 0}
    return ChatOpenAI(base_url=url + "/v1", api_key="none", model="any", **dict(given, **more))


@tool
def get_weather(place: str) -> str:
    """The weather of a place."""
    return place


@check("text-generation")
def invoke(url):
    answer = model(url).invoke(PROMPT)
    assert isinstance(answer.content, str)
    assert answer.usage_metadata["output_tokens"] == 8
    assert answer.content == model(url).invoke(PROMPT).content


@check("text-generation")
def default_parameters(url):
    made = ChatOpenAI(base_url=url + "/v1", api_key="none", model="any", max_tokens=8)
    assert isinstance(made.invoke([("system", "a"), ("human", PROMPT)]).content, str)


@check("text-generation")
def stream(url):
    parts = list(model(url).stream(PROMPT))
    assert "".join(part.content for part in parts) == model(url).invoke(PROMPT).content
    assert len(parts) > 2


@check("text-generation")
def asynchronous_calls(url):
    async def call():
        return await asyncio.gather(*(model(url).ainvoke(PROMPT) for _ in range(4)))

    assert len({one.content for one in asyncio.run(call())}) == 1


@check("text-generation")
def tools(url):
    bound = model(url).bind_tools([get_weather])
    assert isinstance(bound.invoke(PROMPT).content, str)
    try:
        answer = model(url, max_tokens=100).bind_tools([get_weather], tool_choice="any").invoke(PROMPT)
    except Exception as error:
        assert "llguidance" in str(error), str(error)
        return
    # A text of random weights may not end within the tokens.
    assert answer.tool_calls or answer.response_metadata["finish_reason"] == "length"


@check("text-generation")
def structured_output(url):
    from pydantic import BaseModel

    class Answer(BaseModel):
        is_nice: bool

    try:
        answer = (
            model(url, max_tokens=100).with_structured_output(Answer, method="json_schema").invoke(PROMPT)
        )
    except Exception as error:
        assert "llguidance" in str(error), str(error)
        return
    assert isinstance(answer, Answer)


@check("text-generation")
def logprobs(url):
    answer = model(url).bind(logprobs=True, top_logprobs=2).invoke(PROMPT)
    assert len(answer.response_metadata["logprobs"]["content"]) == 8


@check("text-generation")
def completion(url):
    made = OpenAI(base_url=url + "/v1", api_key="none", model="any", max_tokens=5, temperature=0)
    assert made.invoke(PROMPT) == "".join(made.stream(PROMPT))


@check("sentence-embeddings")
def embeddings(url):
    """By default it sends token ids of OpenAI's models; check_embedding_ctx_length=False sends texts."""
    given = {"base_url": url + "/v1", "api_key": "none", "model": "any"}
    made = OpenAIEmbeddings(check_embedding_ctx_length=False, **given)
    assert [len(vector) for vector in made.embed_documents([PROMPT, "paris"])] == [32, 32]
    assert len(made.embed_query(PROMPT)) == 32


if __name__ == "__main__":
    main()
