{#- Schemas are named as they are declared: staging, intermediate, marts, reference. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
