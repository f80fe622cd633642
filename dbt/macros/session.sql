{#- One session of an incremental mart: what a run replaces, and what it reads. A run that names
    no session replaces and reads everything, so both ways of building end in the same rows.
    The variable is asked first: a unit test has no table to be incremental on. -#}

{% macro is_one_session() -%}
    {{ return(var('session') is not none and is_incremental()) }}
{%- endmacro %}

{#- Deleting by session, not by the new rows' keys, also forgets rows that are gone. -#}
{% macro forget_session() -%}
    {%- if is_incremental() -%}
        delete from {{ this }}
        {%- if var('session') is not none %} where session = date '{{ var("session") }}'{% endif %}
    {%- endif -%}
{%- endmacro %}

{% macro session_filter(column) -%}
    {%- if is_one_session() -%}
        {{ column }} = date '{{ var("session") }}'
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{#- The sessions that a trailing window of `length` sessions needs; `sessions` is dim_session,
    an argument so that dbt sees the dependency in every build. -#}
{% macro session_window_filter(session_no, length, sessions) -%}
    {%- if is_one_session() -%}
        {{ session_no }} between (
            select newest.session_no - {{ length - 1 }}
            from {{ sessions }} as newest
            where newest.session = date '{{ var("session") }}'
        ) and (
            select newest.session_no
            from {{ sessions }} as newest
            where newest.session = date '{{ var("session") }}'
        )
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{#- Whether any quantity behind a number was made by a generator. -#}
{% macro any_simulated(simulated_fields, quantities) -%}
    ({{ simulated_fields }} && array['{{ quantities | join("', '") }}']::text[])
{%- endmacro %}
