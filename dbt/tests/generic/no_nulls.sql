{#- Fails with every row that has a null in one of the columns. -#}
{% test no_nulls(model, columns) %}

    select *
    from {{ model }}
    where {{ columns | join(' is null or ') }} is null

{% endtest %}
