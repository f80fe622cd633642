{#- Leaves the project's hash on the schema of the marts, so that a run for one session can tell
    whether the rest of the tables were made by the same project. -#}
{% macro record_fingerprint(results) -%}
    {%- if execute and var('fingerprint') is not none -%}
        {%- set unsuccessful = results | rejectattr('status', 'in', ['success', 'pass', 'warn']) | list -%}
        {%- if not unsuccessful -%}
            comment on schema {{ target.schema }} is '{{ var("fingerprint") }}'
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
